"""The options of the block against naive computations: norms, positions, windows, caps, scales, initial values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.models.build import build_model, make_model
from trainer.models.common.initial import fill
from trainer.models.common.sight import Sight, alibi_slopes
from trainer.models.common.sinusoidal import sinusoids
from trainer.models.initial import (
    Identity,
    Initial,
    InverseSoftplus,
    LogOfUniform,
    Normal,
    Orthogonal,
    Stacked,
    Uniform,
    Xavier,
)
from trainer.models.interface import LanguageModel
from trainer.models.mixers.attention.attend import causal_attention
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.counting import count_flops, count_parameters

VOCAB, T = 61, 24
SMALL: dict[str, Any] = {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": VOCAB, "context_length": T}


def config_of(**changes: Any) -> TransformerConfig:
    return TransformerConfig.model_validate({**SMALL, **changes})


def built(**changes: Any) -> LanguageModel:
    return build_model(config_of(**changes), seed=3).eval()


def tokens(rows: int = 3, length: int = T) -> Tensor:
    return torch.randint(0, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


OPTIONS: list[dict[str, Any]] = [
    *({"norm_placement": placement, "norm": norm, "bias": norm == "layernorm"}
      for placement in ("pre", "post", "both", "none") for norm in ("rmsnorm", "layernorm")),
    *({"position": position} for position in ("learned", "sinusoidal", "alibi", "none")),
    {"mlp": "none"}, {"mlp": "none", "norm_placement": "both"}, {"mixer": {"attention": {"window": 5}}},
    {"logit_softcap": 2.0}, {"residual_scale": 0.5}, {"init": "xavier"}, {"init": "careless"},
    {"pattern": [{"attention": {"window": 3}}, "attention"], "n_kv_heads": 2, "position": "alibi"},
]  # fmt: skip


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_counts_are_exact_and_decoding_with_a_state_agrees(changes: dict[str, Any]) -> None:
    model = built(**changes)
    assert count_parameters(model.config).total == sum(p.numel() for p in model.parameters())
    state, text = model.initial_state(), tokens()
    with torch.no_grad():
        whole = model(text)
        parts = [model(part, state=state) for part in text.split([7, 1, 1, 4, 11], dim=1)]
        changed = text.clone()
        changed[:, 13:] = (changed[:, 13:] + 1) % VOCAB
        torch.testing.assert_close(model(changed)[:, :13], whole[:, :13], atol=1e-5, rtol=1e-5)
    scale = whole.abs().max().item()
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5 * max(scale, 1), rtol=1e-5)


@pytest.mark.parametrize("changes", [{"norm_placement": p} for p in ("pre", "post", "both", "none")], ids=str)
def test_norms_are_where_they_are_placed(changes: dict[str, Any]) -> None:
    """A block written out: x + f(norm x), norm(x + f(x)), x + norm f(norm x), x + f(x)."""
    model, placement = built(**changes, residual_scale=0.5), changes["norm_placement"]
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    block: Any = model.blocks[0]
    x = torch.randn(2, T, 32)
    from trainer.models.interface import Context

    context = Context(torch.arange(T))

    def attn(x: Tensor) -> Tensor:
        mixed: Tensor = block.attn(x, context)
        return mixed

    expected = x
    for branch, norm, out in ((attn, "attn_norm", "attn_out_norm"), (block.mlp, "mlp_norm", "mlp_out_norm")):
        entered = getattr(block, norm)(expected) if placement in ("pre", "both") else expected
        added = getattr(block, out)(branch(entered)) if placement == "both" else branch(entered)
        expected = expected + 0.5 * added
        expected = getattr(block, norm)(expected) if placement == "post" else expected
    torch.testing.assert_close(block(x, context=context), expected)
    assert isinstance(model.norm, nn.Identity) == (placement in ("post", "none"))


def naive(query: Tensor, key: Tensor, value: Tensor, window: int | None, slopes: Any, documents: Any) -> Tensor:
    """Attention as loops over heads, queries and keys."""
    B, H, T, K = query.shape
    out = torch.zeros_like(query)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                seen = [s for s in range(t + 1) if window is None or t - s < window]
                seen = [s for s in seen if documents is None or documents[b, s] == documents[b, t]]
                group = h * key.shape[1] // H
                scores = torch.stack([query[b, h, t] @ key[b, group, s] / math.sqrt(K) for s in seen])
                if slopes:
                    scores = scores - slopes[h] * torch.tensor([float(t - s) for s in seen])
                out[b, h, t] = scores.softmax(0) @ value[b, group, seen]
    return out


@pytest.mark.parametrize("documented", [False, True])
@pytest.mark.parametrize("alibi", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, 7, 40])
def test_attention_is_the_naive_loop(window: int | None, alibi: bool, documented: bool) -> None:
    torch.manual_seed(0)
    query, (key, value) = torch.randn(2, 4, 17, 8), torch.randn(2, 2, 2, 17, 8)
    slopes = alibi_slopes(4) if alibi else ()
    documents = torch.tensor([[0] * 5 + [1] * 12, [0] * 9 + [1] * 2 + [2] * 6]) if documented else None
    got = causal_attention(query, key, value, Sight(documents, window, slopes, {}), 0.0)
    torch.testing.assert_close(got, naive(query, key, value, window, slopes, documents), atol=1e-5, rtol=1e-5)


def test_slopes_are_the_published_ones() -> None:
    """Press et al. 2022, section 3: 8 heads have 1/2, 1/4, ... 1/256; 16 begin at 2^-0.5. Then as their code says."""
    assert alibi_slopes(8) == tuple(2.0**-n for n in range(1, 9))
    assert alibi_slopes(16)[:2] == (2**-0.5, 2**-1)
    assert alibi_slopes(6) == (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoids(torch.arange(9), 6)
    for place in range(9):
        for pair in range(3):
            angle = place / 10_000 ** (2 * pair / 6)
            assert table[place, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[place, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_window_costs_what_it_sees() -> None:
    """Scores and sums of each token's window, summed by hand; a window as long as the context is none."""
    full, whole, short = (config_of(mixer={"attention": {"window": w}}) for w in (None, T, 5))
    seen = sum(min(t + 1, 5) for t in range(T))
    assert count_flops(full) == count_flops(whole)
    assert count_flops(short).attention == 2 * 12 * 32 * seen // T
    assert count_parameters(short) == count_parameters(full)


def test_a_windows_state_does_not_grow() -> None:
    model = built(mixer={"attention": {"window": 5}})
    state = model.initial_state()
    with torch.no_grad():
        for token in tokens().split(1, dim=1):
            model(token, state=state)
    assert state.layers[0]["keys"].shape[2] == 4


def test_logits_stay_within_the_cap_in_losses_too() -> None:
    model, text = built(logit_softcap=2.0, init_std=0.1), tokens()
    with torch.no_grad():
        logits = model(text)
        assert 1 < logits.abs().max() < 2
        expected = nn.functional.cross_entropy(logits.flatten(0, 1), text.flatten(), reduction="none")
        torch.testing.assert_close(model(text, text).flatten(), expected)


@pytest.mark.parametrize(
    ("initial", "least", "most", "mean"),
    [
        (Uniform(-2.0, 4.0), -2.0, 4.0, 1.0),
        (LogOfUniform(1.0, 16.0), 0.0, math.log(16), (16 * math.log(16) - 15) / 15),
        (Xavier(), -math.sqrt(6 / 200), math.sqrt(6 / 200), 0.0),
    ],
    ids=str,
)  # fmt: skip
def test_initial_values_follow_their_distribution(initial: Initial, least: float, most: float, mean: float) -> None:
    values = torch.empty(100, 100)
    fill(values, "a.weight", initial, 0)
    assert least <= values.min() and values.max() <= most
    assert values.mean().item() == pytest.approx(mean, abs=0.02 * (most - least))
    again, other = torch.empty(100, 100), torch.empty(100, 100)
    fill(again, "a.weight", initial, 0)
    fill(other, "b.weight", initial, 0)
    assert torch.equal(values, again) and not torch.equal(values, other)


def test_time_steps_are_log_uniform_after_their_softplus() -> None:
    values = torch.empty(10_000)
    fill(values, "dt_bias", InverseSoftplus(1e-3, 1e-1), 0)
    steps = nn.functional.softplus(values)
    assert steps.min() > 0.99e-3 and steps.max() < 1.01e-1
    assert steps.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.05)


def test_matrices_begin_as_they_say() -> None:
    eye, squares, rows = torch.empty(2, 4, 4), torch.empty(12, 4), torch.empty(6)
    fill(eye, "a", Identity(2.0), 0)
    assert torch.equal(eye, 2 * torch.eye(4).expand(2, 4, 4))
    fill(squares, "a", Orthogonal(), 0)
    for square in squares.split(4):
        torch.testing.assert_close(square @ square.t(), torch.eye(4), atol=1e-5, rtol=0)
    fill(rows, "a", Stacked(((2, Normal(0.0)), (4, Uniform(1.0, 2.0)))), 0)
    assert rows[:2].abs().max() == 0 and rows[2:].min() >= 1


def test_rules_of_initial_values() -> None:
    scaled, xavier, careless = (built(init=init) for init in ("scaled", "xavier", "careless"))
    qkv = [model.blocks[0].attn.qkv.weight for model in (scaled, xavier, careless)]  # type: ignore[union-attr]
    assert qkv[0].std().item() == pytest.approx(math.sqrt(2 / (5 * 32)), rel=0.05)
    assert qkv[1].abs().max().item() == pytest.approx(math.sqrt(6 / 64), rel=0.01), "three matrices of 32 outputs"
    assert qkv[2].std().item() == pytest.approx(1, rel=0.05)
    assert torch.equal(scaled.embed.weight, xavier.embed.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mlp": "none", "d_ff": 64}, "d_ff has no effect with mlp none"),
        ({"init": "careless", "init_std": 0.1}, "init_std has no effect with init careless"),
        (
            {"mixer": "gated_conv", "n_heads": None, "position": "alibi"},
            "position alibi is applied to queries and keys",
        ),
    ],
)
def test_what_has_no_effect_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        config_of(**changes)


def test_the_model_is_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        assert all(p.is_meta for p in make_model(config_of(position="alibi")).parameters())
