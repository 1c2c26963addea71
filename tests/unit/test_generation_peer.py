"""Decoding against `transformers.generate` on the same weights, where the definitions agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.test_decode import run
from trainer.models.build import build_model
from trainer.models.interface import LanguageModel
from trainer.models.mixers.attention import cache
from trainer.models.mixers.attention.cache import GROWTH, append
from trainer.models.transformer.config import TransformerConfig
from trainer.models.transformer.huggingface import to_huggingface

transformers = pytest.importorskip("transformers")
V, PROMPT = 40, [5, 9, 2]
LAYOUTS = {
    "llama": {"n_kv_heads": 2},
    "gpt2": {"position": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True},
}


@pytest.fixture(scope="module", params=LAYOUTS)
def pair(request: pytest.FixtureRequest) -> tuple[LanguageModel, Any]:
    """A model with clear preferences, and the same one in `transformers`; both in double precision."""
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": V, "context_length": 64}
    config = TransformerConfig(**{**shape, **LAYOUTS[request.param]})
    ours = build_model(config, 3)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(2.0)
    tensors, values = to_huggingface({name: p.detach() for name, p in ours.named_parameters()}, config)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**values))
    absent, unknown = theirs.load_state_dict(tensors, strict=False)
    assert unknown == [] and absent in ([], ["lm_head.weight"])
    theirs.tie_weights()
    return ours.double(), theirs.double().eval()


def generate(theirs: Any, *, eos: int | None = None, **settings: Any) -> list[list[int]]:
    prompt = torch.tensor([PROMPT])
    with torch.inference_mode():
        out = theirs.generate(
            prompt, attention_mask=torch.ones_like(prompt), eos_token_id=eos, pad_token_id=0, use_cache=True, **settings
        )
    rows = [row[len(PROMPT) :].tolist() for row in out]
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


def test_greedy_is_theirs(pair: tuple[LanguageModel, Any]) -> None:
    ours, theirs = pair
    ((one,),) = run(ours, [PROMPT], decoder="greedy", tokens=30)
    assert [one.tokens] == generate(theirs, max_new_tokens=30, do_sample=False)
    ((one,),) = run(ours, [PROMPT], decoder="greedy", tokens=30, repetition_penalty=1.4)
    assert [one.tokens] == generate(theirs, max_new_tokens=30, do_sample=False, repetition_penalty=1.4)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize("eos", [None, 7, 11])
def test_beams_are_theirs(pair: tuple[LanguageModel, Any], width: int, alpha: float, eos: int | None) -> None:
    ours, theirs = pair
    settings = {"num_beams": width, "length_penalty": alpha, "early_stopping": "never", "do_sample": False}
    (made,) = run(ours, [PROMPT], eos, decoder="beam", width=width, count=width, length_alpha=alpha, tokens=12)
    expected = generate(theirs, eos=eos, max_new_tokens=12, num_return_sequences=width, **settings)
    assert [one.tokens for one in made][:1] == expected[:1]
    if eos is None:
        assert [one.tokens for one in made] == expected


def test_the_nucleus_is_theirs(pair: tuple[LanguageModel, Any]) -> None:
    """The random numbers differ, so the shares of the tokens are compared."""
    ours, theirs = pair
    (made,) = run(ours, [PROMPT], tokens=1, count=3000, temperature=1.0, top_p=0.7)
    torch.manual_seed(0)
    expected = generate(
        theirs, max_new_tokens=1, do_sample=True, top_p=0.7, top_k=0, temperature=1.0, num_return_sequences=3000
    )
    shares = [
        torch.bincount(torch.tensor(t).flatten(), minlength=V) / 3000 for t in ([o.tokens for o in made], expected)
    ]
    assert (shares[0] - shares[1]).abs().max() < 0.04  # four standard errors of a difference of shares of one half


@pytest.fixture
def _never_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALL", 0)


@pytest.mark.usefixtures("_never_small")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 3), st.integers(1, 3), st.lists(st.tuples(st.integers(1, 90), st.sampled_from(["", "end", "rows"]))),
)  # fmt: skip
def test_a_buffer_holds_what_was_appended(B: int, G: int, steps: list[tuple[int, str]]) -> None:
    """Also behind the end of a view alone, as a window keeps it, and behind selected rows."""
    with torch.no_grad():
        kept = torch.randn(B, 3, G, 4).transpose(1, 2)  # as a projection gives it
        plain = kept.clone()
        for count, change in steps:
            new = torch.randn(B, count, G, 4).transpose(1, 2)
            kept, plain = append(kept, new), torch.cat([plain, new], dim=2)
            assert torch.equal(kept, plain)
            if change == "end":
                kept, plain = kept[:, :, -5:], plain[:, :, -5:]
            if change == "rows":
                rows = torch.arange(B).flip(0)
                kept, plain = kept.index_select(0, rows), plain.index_select(0, rows)


@pytest.mark.usefixtures("_never_small")
def test_a_buffer_is_not_copied_for_each_token() -> None:
    with torch.no_grad():
        kept = append(torch.randn(2, 3, 5, 4), torch.randn(2, 3, 1, 4))
        places = set()
        for _ in range(GROWTH - 1):
            kept = append(kept, torch.randn(2, 3, 1, 4))
            places.add(kept.data_ptr())
    assert len(places) == 1


def test_gradients_reach_what_was_appended() -> None:
    kept, new = (torch.randn(1, 1, 2, 4, requires_grad=True) for _ in range(2))
    append(append(kept, new), new).sum().backward()
    assert kept.grad is not None and new.grad is not None and float(new.grad[0, 0, 0, 0]) == 2
