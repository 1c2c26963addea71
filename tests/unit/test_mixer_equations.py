"""Recurrences and convolutions against their definitions, step by step, and against torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.config.model import parse_model
from trainer.models.build import build_model
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
            h = (1 - z) * h + z * torch.where(candidate >= 0, candidate + 0.5, torch.sigmoid(candidate))
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
