"""Attention with relative positions is that of Dai et al. (2019): a naive loop over pairs, and XLNet's as an oracle."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.test_mixers import ROWS, T, config_of, tokens
from trainer.models.build import build_model
from trainer.models.common.sinusoidal import halves
from trainer.models.interface import Context
from trainer.models.mixers.attention.relative import to_keys
from trainer.models.registry import cost_of
from trainer.models.roles import role_of
from trainer.parallel.sequence import shard_attention
from trainer.parallel.tensor.split import split_parameter
from trainer.plan.counting import count_parameters

D, H = 32, 4
K = D // H


def layer_of(**changes: Any) -> Any:
    config = config_of("attention", {}, position="relative", n_layers=1, init_std=0.3, **changes)
    (block,) = build_model(config, 5).double().eval().blocks
    return block.mixer


def inputs(length: int, seed: int = 0) -> Tensor:
    return torch.randn(ROWS, length, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive(layer: Any, memory: Tensor, x: Tensor) -> Tensor:
    """Return what the layer gives, pair by pair, as equation (5) of the paper's section 3.3 reads."""
    relative = layer.relative
    everything = torch.cat([memory, x], dim=1)
    q, k, v = (part.unflatten(-1, (H, K)) for part in layer.qkv(everything).chunk(3, dim=-1))
    M, length = memory.shape[1], x.shape[1]
    frequencies = torch.tensor([10_000.0 ** (-2 * i / D) for i in range(D // 2)], dtype=torch.float64)
    out = torch.zeros(len(x), length, H, K, dtype=torch.float64)
    for b in range(len(x)):
        for h in range(H):
            for i in range(length):
                scores = []
                for j in range(M + i + 1):
                    angle = (M + i - j) * frequencies
                    r = relative.r.weight.view(H, K, D)[h] @ torch.cat([angle.sin(), angle.cos()])
                    query = q[b, M + i, h]
                    scores.append((query + relative.u[h]) @ k[b, j, h] + (query + relative.v[h]) @ r)
                weights = (torch.stack(scores) / math.sqrt(K)).softmax(0)
                out[b, i, h] = weights @ v[b, : M + i + 1, h]
    projected: Tensor = layer.out(out.flatten(2))
    return projected


@torch.no_grad()
def test_attention_equals_the_naive_loop() -> None:
    layer, x = layer_of(), inputs(11)
    context = Context(torch.arange(11))
    torch.testing.assert_close(layer(x, context), naive(layer, x[:, :0], x), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_attention_with_a_memory_equals_the_naive_loop() -> None:
    """Three segments; what is remembered are the last 7 inputs, fewer at first."""
    layer, state = layer_of(), {}
    x = inputs(15)
    for first in (0, 5, 10):
        context = Context(torch.arange(5), memory=7)
        found = layer(x[:, first : first + 5], context, state)
        expected = naive(layer, x[:, max(0, first - 7) : first], x[:, first : first + 5])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_it_equals_xlnet_of_transformers() -> None:
    xlnet = pytest.importorskip("transformers.models.xlnet.modeling_xlnet")
    from transformers import XLNetConfig

    layer = layer_of()
    theirs = xlnet.XLNetRelativeAttention(XLNetConfig(d_model=D, n_head=H, dropout=0.0)).double().eval()
    q, k, v = (part.t().reshape(D, H, K) for part in layer.qkv.weight.chunk(3))
    theirs.q.copy_(q), theirs.k.copy_(k), theirs.v.copy_(v)
    theirs.o.copy_(layer.out.weight.view(D, H, K))
    theirs.r.copy_(layer.relative.r.weight.t().reshape(D, H, K))
    theirs.r_w_bias.copy_(layer.relative.u), theirs.r_r_bias.copy_(layer.relative.v)
    M, length = 6, 9
    x = inputs(M + length)
    h, mems = x[:, M:].transpose(0, 1), x[:, :M].transpose(0, 1)
    r = halves(torch.arange(M + length, -length, -1), D).double()[:, None]
    mask = torch.ones(length, M + length, dtype=torch.float64).triu(1 + M)[:, :, None, None]
    content = theirs(h=h, g=None, attn_mask_h=mask, attn_mask_g=None, r=r.expand(-1, ROWS, -1), seg_mat=None, mems=mems)
    theirs_normed = content[0].transpose(0, 1)
    context = Context(torch.arange(length), memory=M)
    state = {"inputs": x[:, :M], "seen": torch.full((ROWS,), M)}
    ours = torch.nn.functional.layer_norm(layer(x[:, M:], context, state) + x[:, M:], (D,), eps=theirs.layer_norm.eps)
    torch.testing.assert_close(ours, theirs_normed, atol=1e-5, rtol=1e-5)


def test_scores_by_distance_come_to_their_keys() -> None:
    length, total = 4, 7
    by_distance = torch.arange(total - 1, -1, -1.0).expand(1, 1, length, total)
    by_key = to_keys(by_distance)[0, 0]
    for t in range(length):
        for key in range(total - length + t + 1):
            assert by_key[t, key] == total - length + t - key


@pytest.mark.parametrize("options", [{}, {"n_kv_heads": 2}, {"qk_norm": True}, {"fused_qkv": False}, {"bias": True}])
def test_relative_positions_count_cache_and_split(options: dict) -> None:
    config = config_of("attention", {}, position="relative", **options)
    model = build_model(config, 1).eval()
    assert count_parameters(config).total == sum(p.numel() for p in model.parameters())
    text, state = tokens(), model.initial_state()
    with torch.no_grad():
        whole = model(text)
        parts = [model(part, state=state) for part in text.tensor_split([1, 9, 10], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    for name, parameter in model.named_parameters():
        if ".relative." in name:
            share = split_parameter(role_of(model.roles, name), tuple(parameter.shape), tp_rank=0, tp_size=2)
            assert share.local_shape[0] == parameter.shape[0] // 2
    assert cost_of(config.family).count_flops(config).attention > 0


def test_tensor_ranks_drop_apart_in_scores_by_distance() -> None:
    """As they do in plain attention: with one random state for all ranks, each drops in heads of its own."""
    outputs = []
    for rank in range(2):
        layer = layer_of(dropout=0.5).train()
        shard_attention(layer, SimpleNamespace(tp_size=2, sp_size=1, tp_rank=rank, sp_rank=0, sequence_group=None))  # type: ignore[arg-type]
        torch.manual_seed(1)
        outputs.append(layer(inputs(6), Context(torch.arange(6))))
    after = torch.rand(3)
    torch.manual_seed(1)
    torch.randint(2**62, ())
    assert not torch.allclose(outputs[0], outputs[1])
    assert torch.equal(after, torch.rand(3)), "what is outside attention must draw the same on all ranks"


def test_documents_do_not_see_each_other() -> None:
    model, text = build_model(config_of("attention", {}, position="relative"), 1).eval(), tokens()
    documents = (torch.arange(T) >= 10).int().expand(ROWS, T)
    with torch.no_grad():
        together = model(text, documents=documents)
        torch.testing.assert_close(together[:, 10:], model(text[:, 10:]), atol=1e-5, rtol=1e-5)
