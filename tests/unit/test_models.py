"""The model against other implementations, and its own invariants."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trainer.models.build import build_model
from trainer.models.common import head
from trainer.models.common.rotary import RotaryTable, rotary_angles, rotate
from trainer.models.common.sight import Sight
from trainer.models.mixers.attention.attend import causal_attention
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.logits import chunked

SMALL = {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 61, "context_length": 24}


def small(**changes):
    return build_model(TransformerConfig(**{**SMALL, **changes}), seed=3)


def tokens(seed: int = 0, rows: int = 3, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 61, (rows, length), generator=torch.Generator().manual_seed(seed))


def copy_into(peer: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    missing, unexpected = peer.load_state_dict(values, strict=False)
    assert not unexpected
    assert all("lm_head" in m or "inv_freq" in m or m.endswith(("attn.bias", "masked_bias")) for m in missing), missing


@pytest.mark.parametrize(("mlp", "activation"), [("gelu_tanh", "gelu_new"), ("gelu", "gelu")])
def test_the_lectures_choices_are_gpt2(mlp: str, activation: str):
    from transformers import GPT2Config, GPT2LMHeadModel

    ours = small(position="learned", norm="layernorm", mlp=mlp, bias=True)
    config = GPT2Config(
        vocab_size=61, n_positions=24, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0, resid_pdrop=0,
        activation_function=activation,
    )  # fmt: skip
    peer = GPT2LMHeadModel(config).eval()
    values = {"transformer.wte.weight": ours.embed.weight, "transformer.wpe.weight": ours.position.weight}
    values |= {f"transformer.ln_f.{k}": v for k, v in ours.norm.state_dict().items()}
    for i, block in enumerate(ours.blocks):
        at = f"transformer.h.{i}"
        for name, module in (("ln_1", block.attn_norm), ("ln_2", block.mlp_norm)):
            values |= {f"{at}.{name}.{k}": v for k, v in module.state_dict().items()}
        pairs = {"attn.c_attn": block.attn.qkv, "attn.c_proj": block.attn.out}
        pairs |= {"mlp.c_fc": block.mlp.up, "mlp.c_proj": block.mlp.down}
        for name, module in pairs.items():
            values |= {f"{at}.{name}.weight": module.weight.t(), f"{at}.{name}.bias": module.bias}
    copy_into(peer, values)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(tokens()), peer(tokens()).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("n_kv_heads", [4, 2])
def test_todays_choices_are_llama(n_kv_heads: int):
    from transformers import LlamaConfig, LlamaForCausalLM

    ours = small(n_kv_heads=n_kv_heads, tied_embeddings=False, fused_qkv=False)
    config = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=ours.config.ff_width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=n_kv_heads, rms_norm_eps=1e-6, max_position_embeddings=24,
        tie_word_embeddings=False,
    )  # fmt: skip
    peer = LlamaForCausalLM(config).eval()
    values = {"model.embed_tokens.weight": ours.embed.weight, "lm_head.weight": ours.head.weight}
    values["model.norm.weight"] = ours.norm.weight
    for i, block in enumerate(ours.blocks):
        at = f"model.layers.{i}"
        gate, up = block.mlp.gate_up.weight.chunk(2)
        values |= {
            f"{at}.input_layernorm.weight": block.attn_norm.weight,
            f"{at}.post_attention_layernorm.weight": block.mlp_norm.weight,
            f"{at}.self_attn.q_proj.weight": block.attn.q.weight,
            f"{at}.self_attn.k_proj.weight": block.attn.k.weight,
            f"{at}.self_attn.v_proj.weight": block.attn.v.weight,
            f"{at}.self_attn.o_proj.weight": block.attn.out.weight,
            f"{at}.mlp.gate_proj.weight": gate,
            f"{at}.mlp.up_proj.weight": up,
            f"{at}.mlp.down_proj.weight": block.mlp.down.weight,
        }
    copy_into(peer, values)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(tokens()), peer(tokens()).logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"position": "learned"}, {"n_kv_heads": 2}])
def test_no_token_sees_the_future(changes: dict):
    model = small(**changes).eval()
    first, second = tokens(), tokens()
    second[:, 12:] = (second[:, 12:] + 1) % 61
    with torch.no_grad():
        torch.testing.assert_close(model(first)[:, :12], model(second)[:, :12])
        assert not torch.allclose(model(first)[:, 12:], model(second)[:, 12:])


def test_documents_do_not_see_each_other():
    model = small().eval()
    together = tokens(rows=1)
    documents = torch.tensor([[0] * 10 + [1] * 14], dtype=torch.int32)
    other = together.clone()
    other[:, :10] = (other[:, :10] + 7) % 61
    with torch.no_grad():
        torch.testing.assert_close(
            model(together, documents=documents)[:, 10:], model(other, documents=documents)[:, 10:]
        )


def test_separate_and_fused_projections_are_the_same_model():
    fused, apart = small(n_kv_heads=2), small(n_kv_heads=2, fused_qkv=False)
    values = fused.state_dict()
    for i in range(2):
        q, k, v = values.pop(f"blocks.{i}.attn.qkv.weight").split([32, 16, 16])
        values |= {f"blocks.{i}.attn.{n}.weight": w for n, w in (("q", q), ("k", k), ("v", v))}
    apart.load_state_dict(values)
    with torch.no_grad():
        torch.testing.assert_close(fused.eval()(tokens()), apart.eval()(tokens()))


def test_values_depend_on_name_and_seed_alone():
    one, two, other = small(), small(n_layers=3), build_model(TransformerConfig(**SMALL), seed=4)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(one.get_parameter(name), two.get_parameter(name))
    assert not torch.equal(one.get_parameter(name), other.get_parameter(name))


def test_rotary_scores_depend_on_distance_alone():
    query, key = torch.randn(2, 1, 1, 1, 16)
    angles = [rotary_angles(torch.tensor([p]), 16, 10_000.0) for p in (3, 5, 10, 12)]
    near = (rotate(query, angles[1]) * rotate(key, angles[0])).sum()
    far = (rotate(query, angles[3]) * rotate(key, angles[2])).sum()
    torch.testing.assert_close(near, far)


def test_attention_with_a_cache_sees_all_that_came_before():
    q, k, v = torch.randn(3, 1, 2, 6, 8)
    whole = causal_attention(q, k, v, Sight(), 0.0)
    torch.testing.assert_close(causal_attention(q[:, :, 4:], k, v, Sight(), 0.0), whole[:, :, 4:])
    torch.testing.assert_close(causal_attention(q[:, :, 5:], k, v, Sight(), 0.0), whole[:, :, 5:])


TERMS = [head.LossTerms(), head.LossTerms(0.1), head.LossTerms(0.0, 0.3), head.LossTerms(0.1, 0.3)]


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("chunk", [61, 61 * 5, 61 * 1000])
def test_both_losses_of_the_head_are_cross_entropy(
    chunk: int, terms: head.LossTerms, softcap: float | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(head, "chunk_of_logits", lambda *, gpu: chunk)
    hidden, weight, weights = torch.randn(13, 8), torch.randn(61, 8), torch.rand(13)
    targets = torch.randint(0, 61, (13,))
    results = []
    for loss in (head.LinearCrossEntropy.apply, in_place, plain):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        losses = loss(h, w, targets, terms, softcap)
        (losses * weights).sum().backward()
        results.append((losses.detach(), h.grad, w.grad))
    for in_chunks, kept, reference in zip(*results, strict=True):
        torch.testing.assert_close(in_chunks, reference, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(kept, reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_the_loss_of_the_head_is_the_same_compiled(terms: head.LossTerms, softcap: float | None) -> None:
    layer, targets = head.Head(8, 61), torch.randint(0, 61, (13,))
    compiled = torch.compile(layer.losses, backend="eager")
    results = []
    for losses in (layer.losses, compiled):
        hidden = torch.randn(13, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        found = losses(layer(hidden), targets, terms, softcap)
        found.sum().backward()
        results.append((found.detach(), hidden.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_gpu_holds_the_logits_of_a_small_model_at_once() -> None:
    """Made in chunks they would be made twice: a tenth of a step of GPT-2 at 16 sequences of 1,024 tokens."""
    gpt2 = 16 * 1024 * 50_304
    assert not chunked(gpt2, width=768, gpu=True) and chunked(2 * gpt2, width=768, gpu=True)
    assert chunked(gpt2, width=768, gpu=False) and chunked(gpt2, width=4096, gpu=True)


def in_place(hidden, weight, targets, terms: head.LossTerms, softcap: float | None) -> torch.Tensor:
    return head.InPlaceCrossEntropy.apply(head.capped(hidden @ weight.t(), softcap), targets, terms)


def test_the_gradient_that_took_the_place_of_the_logits_is_not_used_twice():
    logits = torch.randn(3, 7, requires_grad=True)
    loss = head.InPlaceCrossEntropy.apply(logits * 1, torch.tensor([1, 2, 3]), head.PLAIN).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def plain(hidden, weight, targets, terms: head.LossTerms, softcap: float | None) -> torch.Tensor:
    logits = hidden @ weight.t()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=terms.smoothing)
    return losses + terms.z_loss * torch.log(logits.exp().sum(1)) ** 2


def test_the_table_of_angles_is_made_once_and_holds_those_of_any_length() -> None:
    table, like = RotaryTable(16, 10_000.0), torch.zeros(1)
    with torch.inference_mode():
        kept = table.first(40, like)[0]
    for count in (7, 40, 33):
        for made, expected in zip(
            table.first(count, like), rotary_angles(torch.arange(count), 16, 10_000.0), strict=True
        ):
            assert torch.equal(made, expected) and not made.is_inference()
            assert made.untyped_storage().data_ptr() in {t.untyped_storage().data_ptr() for t in table.first(40, like)}
    assert table.first(1, like)[0].data_ptr() == kept.data_ptr()
    assert table.first(41, like)[0].shape == (41, 8) and table.first(2, like[:0].to("meta"))[0].is_meta
