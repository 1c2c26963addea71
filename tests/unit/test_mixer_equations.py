"""Recurrences and convolutions against their definitions, step by step, and against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.config.model import parse_model
from trainer.models.build import build_model
from trainer.models.common.chunked import chunked_recurrence
from trainer.models.common.delta import delta_rule
from trainer.models.common.exponential_gates import matrix_memory
from trainer.models.common.lstm import lstm
from trainer.models.common.scan import linear_scan
from trainer.models.interface import Context

EXACT = {"atol": 1e-10, "rtol": 1e-10}


def step_by_step(decay: Tensor, value: Tensor, h: Tensor) -> Tensor:
    outputs = []
    for t in range(value.shape[1]):
        h = decay[:, t] * h + value[:, t]
        outputs.append(h)
    return torch.stack(outputs, dim=1)


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(1, 70),
    seed=st.integers(0, 10**6),
    power=st.sampled_from([0.0, 1.0, 20.0]),  # 20: decays near 0, whose products vanish
    forgotten=st.lists(st.integers(0, 69), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_chunked_scan_is_the_recurrence(
    T: int, seed: int, power: float, forgotten: list[int], dtype: torch.dtype
) -> None:
    """Values and all gradients."""
    torch.manual_seed(seed)
    decay, value = torch.rand(2, T, 3, dtype=dtype) ** power, torch.randn(2, T, 3, dtype=dtype)
    decay[:, [t for t in forgotten if t < T]] = 0
    inputs = decay.requires_grad_(), value.requires_grad_(), torch.randn(2, 3, dtype=dtype).requires_grad_()
    weights = torch.randn(2, T, 3, dtype=dtype)
    results = []
    for function in (linear_scan, step_by_step):
        h = function(*inputs)
        results.append([h, *torch.autograd.grad((h * weights).sum(), inputs)])
    close = EXACT if dtype == torch.float64 else {"atol": 1e-5, "rtol": 1e-5}
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **close)


@pytest.mark.parametrize("documents", [False, True], ids=["fused kernel", "own steps"])
def test_an_lstm_is_that_of_torch(documents: bool) -> None:
    """Copied weights; hidden states and all gradients, by the kernel and by our own steps through time."""
    torch.manual_seed(0)
    D, theirs = 8, nn.LSTM(8, 8, batch_first=True).double()
    with torch.no_grad():
        theirs.bias_hh_l0.zero_()
    ours = [p.detach().clone().requires_grad_() for p in (theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0)]
    x, weights = torch.randn(3, 11, D, dtype=torch.float64, requires_grad=True), torch.randn(3, 11, D).double()
    one = torch.zeros(3, 11, dtype=torch.int32) if documents else None
    h = lstm(x, (ours[0], ours[1], ours[2]), one, None)
    gradients = torch.autograd.grad((h * weights).sum(), [x, *ours])
    expected = theirs(x)[0]
    wanted = [x, theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0]
    torch.testing.assert_close(h, expected, **EXACT)
    for got, right in zip(gradients, torch.autograd.grad((expected * weights).sum(), wanted), strict=True):
        torch.testing.assert_close(got, right, **EXACT)


def test_no_gradient_of_an_lstm_passes_the_end_of_a_document() -> None:
    """Three documents in a row have the gradients that they have alone."""
    torch.manual_seed(1)
    D, cuts = 6, [4, 9]
    weights = [torch.randn(4 * D, D, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    triple = (weights[0], weights[1], torch.randn(4 * D, dtype=torch.float64, requires_grad=True))
    x = torch.randn(2, 14, D, dtype=torch.float64, requires_grad=True)
    documents = torch.zeros(2, 14, dtype=torch.int32)
    documents[:, cuts] = 1
    together = lstm(x, triple, documents.cumsum(1), None)
    alone = torch.cat([lstm(part, triple, None, None) for part in x.tensor_split(cuts, dim=1)], dim=1)
    torch.testing.assert_close(together, alone, **EXACT)
    pairs = zip(*(torch.autograd.grad(h.square().sum(), [x, *triple]) for h in (together, alone)), strict=True)
    for got, right in pairs:
        torch.testing.assert_close(got, right, **EXACT)


@pytest.mark.parametrize("name", ["min_gru", "qrnn"])
def test_gated_recurrences_equal_their_equations(name: str) -> None:
    """The equations of Feng et al. 2024 and Bradbury et al. 2017, token by token, with the module's own matrices."""
    config = parse_model({"d_model": 8, "n_layers": 1, "vocab_size": 5, "mixer": name, "bias": True, "init_std": 0.5})
    mixer = getattr(build_model(config, 0).blocks[0], name).double()
    x = torch.randn(2, 13, 8, dtype=torch.float64)
    h, expected = torch.zeros(2, 8, dtype=torch.float64), []
    before = torch.zeros(2, 8, dtype=torch.float64)
    for token in x.unbind(1):
        if name == "min_gru":
            gate, candidate = mixer.into(token).chunk(2, dim=1)
            z = torch.sigmoid(gate)
            h = (1 - z) * h + z * candidate
            expected.append(mixer.out(h))
        else:
            z, f, o = mixer.conv(torch.cat([before, token], dim=1)).chunk(3, dim=1)
            h, before = torch.sigmoid(f) * h + (1 - torch.sigmoid(f)) * torch.tanh(z), token
            expected.append(mixer.out(torch.sigmoid(o) * h))
    torch.testing.assert_close(mixer(x, Context(torch.arange(13))), torch.stack(expected, dim=1), **EXACT)


@pytest.mark.parametrize("layer", [0, 2, 8])
def test_a_dilated_convolution_equals_that_of_torch(layer: int) -> None:
    """The same taps through `F.conv1d` with its own dilation."""
    config = parse_model({"d_model": 6, "n_layers": 9, "vocab_size": 5, "mixer": "temporal_conv", "init_std": 0.5})
    mixer = build_model(config, 0).blocks[layer].temporal_conv.double()
    dilation = {0: 1, 2: 4, 8: 1}[layer]
    x = torch.randn(2, 17, 6, dtype=torch.float64)
    taps = mixer.conv.weight.view(6, 3, 6).permute(0, 2, 1)
    padded = nn.functional.pad(x.transpose(1, 2), (2 * dilation, 0))
    expected = mixer.out(nn.functional.conv1d(padded, taps, dilation=dilation).relu().transpose(1, 2))
    torch.testing.assert_close(mixer(x, Context(torch.arange(17))), expected, **EXACT)


def test_mamba2_equals_that_of_transformers() -> None:
    """Copied weights, their plain CPU path; several chunks, and a length that is no multiple of one."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    torch.manual_seed(0)
    E, H, N = 64, 4, 16
    settings = {"hidden_size": 32, "num_heads": H, "head_dim": E // H, "state_size": N, "expand": 2, "n_groups": 1}
    theirs = Mamba2Mixer(transformers.Mamba2Config(**settings, chunk_size=32, use_bias=False), layer_idx=0).eval()
    options = {"mamba2": {"state": N, "norm_groups": 1}}
    shape = {"d_model": 32, "n_layers": 1, "n_heads": H, "vocab_size": 5, "norm_eps": 1e-5}
    ours = build_model(parse_model({**shape, "mixer": options}), 0).blocks[0].mamba2
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        z_x, bc, dt = theirs.in_proj.weight.split([2 * E, 2 * N, H])
        taps, biases = theirs.conv1d.weight.squeeze(1).split([E, 2 * N]), theirs.conv1d.bias.split([E, 2 * N])
        copied = {
            "into.weight": z_x, "bc.weight": bc, "dt.weight": dt, "out.weight": theirs.out_proj.weight,
            "conv_x": taps[0], "conv_bc": taps[1], "conv_x_bias": biases[0], "conv_bc_bias": biases[1],
            "dt_bias": theirs.dt_bias, "A_log": theirs.A_log, "skip": theirs.D, "scale": theirs.norm.weight,
        }  # fmt: skip
        ours.load_state_dict(copied)
        x = torch.randn(2, 150, 32)
        torch.testing.assert_close(ours(x, Context(torch.arange(150))), theirs(x), atol=1e-5, rtol=1e-5)


def recurrence(query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, first: Tensor, S: Tensor) -> Tensor:
    outputs = []
    for t in range(value.shape[1]):
        S = torch.where(first[:, t, None, None, None], 0.0, log_decay[:, t, :, None, None].exp() * S)
        S = S + key[:, t, :, :, None] * value[:, t, :, None, :]
        outputs.append((query[:, t, :, None, :] @ S).squeeze(2))
    return torch.stack(outputs, dim=1)


@settings(max_examples=30, deadline=None)
@given(
    T=st.sampled_from([1, 5, 63, 64, 65, 130]),
    shared=st.booleans(),
    borders=st.lists(st.integers(1, 129), max_size=4),
    seed=st.integers(0, 1000),
)
def test_chunks_of_a_recurrence_equal_its_steps(T: int, shared: bool, borders: list[int], seed: int) -> None:
    """Outputs and gradients, with documents that begin anywhere."""
    torch.manual_seed(seed)
    B, H, N, P = 2, 3, 4, 5
    G = 1 if shared else H
    shapes = [(B, T, G, N), (B, T, G, N), (B, T, H, P)]
    query, key, value = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    log_decay = (-torch.rand(B, T, H, dtype=torch.float64) * 3).requires_grad_()
    initial = torch.randn(B, H, N, P, dtype=torch.float64, requires_grad=True)
    first = torch.zeros(B, T, dtype=torch.bool)
    first[0, [place for place in borders if place < T]] = True
    got, last = chunked_recurrence(query, key, value, log_decay, first, initial)
    expected = recurrence(query, key, value, log_decay, first, initial)
    torch.testing.assert_close(got, expected, **EXACT)
    inputs = [query, key, value, log_decay, initial]
    pairs = (torch.autograd.grad(y.sin().sum(), inputs) for y in (got, expected))
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    parts = [slice(0, T // 2), slice(T // 2, T)]
    S, outputs = initial, []
    for part in parts:
        if part.start < part.stop:
            y, S = chunked_recurrence(*(x[:, part] for x in (query, key, value, log_decay)), first[:, part], S)
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, dim=1), expected, **EXACT)
    torch.testing.assert_close(S, last, **EXACT)


def delta_step_by_step(query: Tensor, key: Tensor, value: Tensor, strength: Tensor, log_decay: Tensor) -> Tensor:
    """The gated delta rule as Yang et al. 2025 write it (equation 10), for (B, T, H, ...)."""
    unit = torch.eye(key.shape[-1], dtype=key.dtype)
    S, outputs = torch.zeros(*key.shape[:1], *key.shape[2:], value.shape[-1], dtype=key.dtype), []
    for t in range(value.shape[1]):
        k, b = key[:, t, :, :, None], strength[:, t, :, None, None]
        S = log_decay[:, t, :, None, None].exp() * (unit - b * k * k.transpose(-1, -2)) @ S
        S = S + b * k * value[:, t, :, None, :]
        outputs.append((query[:, t, :, None, :] @ S).squeeze(2))
    return torch.stack(outputs, dim=1)


def memory_step_by_step(query: Tensor, key: Tensor, value: Tensor, log_input: Tensor, log_forget: Tensor) -> Tensor:
    """An mLSTM's memory as Beck et al. 2024 write it (equations 19 to 27), without stabilisation."""
    S, n, outputs = 0.0, 0.0, []
    for t in range(value.shape[1]):
        i, f = log_input[:, t, :, None].exp(), log_forget[:, t, :, None].exp()
        S = f[..., None] * S + (i * key[:, t])[..., None] * value[:, t, :, None, :]
        n = f * n + i * key[:, t]
        scale = (query[:, t] * n).sum(-1, keepdim=True).abs().clamp(min=1)
        outputs.append((query[:, t, :, None, :] @ S).squeeze(2) / scale)
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("T", [1, 64, 65, 150])
@pytest.mark.parametrize("rule", ["delta", "memory"])
def test_chunks_of_matrix_recurrences_equal_their_steps(rule: str, T: int) -> None:
    torch.manual_seed(T)
    B, H, N, P = 2, 3, 4, 5
    query, key, value = (torch.randn(B, T, H, width, dtype=torch.float64) for width in (N, N, P))
    first, second = torch.randn(2, B, T, H, dtype=torch.float64)
    chunked, steps = {"delta": (delta_rule, delta_step_by_step), "memory": (matrix_memory, memory_step_by_step)}[rule]
    if rule == "delta":
        key, gates = key / key.norm(dim=-1, keepdim=True), (first.sigmoid(), -second.abs())
    else:
        gates = first, (second + 2).sigmoid().log()
    inputs = [x.detach().requires_grad_() for x in (query, key, value, *gates)]
    y, expected = chunked(*inputs, None, None)[0], steps(*inputs)
    torch.testing.assert_close(y, expected, **EXACT)
    for pair in zip(*(torch.autograd.grad(out.sin().sum(), inputs) for out in (y, expected)), strict=True):
        torch.testing.assert_close(*pair, **EXACT)


def test_the_delta_rule_equals_that_of_transformers() -> None:
    """Their step-by-step form, float32."""
    qwen = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    torch.manual_seed(0)
    query, key, value = (nn.functional.normalize(torch.randn(2, 100, 3, 8), dim=-1) for _ in range(3))
    strength, log_decay = torch.rand(2, 100, 3), -torch.rand(2, 100, 3)
    theirs, _ = qwen.torch_recurrent_gated_delta_rule(query, key, value, log_decay, strength)
    ours, _ = delta_rule(query * 8**-0.5, key, value, strength, log_decay, None, None)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
