"""One layer of long short-term memory: torch's fused kernels, or our own steps where documents begin anew.

Shapes: B batch, T tokens, D width of input and hidden state. Gates lie in torch's order: input, forget, cell, output.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.common.window import begins
from trainer.models.interface import LayerState

Weights = tuple[Tensor, Tensor, Tensor]  # of the input (4D, D), of the hidden state (4D, D), biases (4D)


def lstm(x: Tensor, weights: Weights, documents: Tensor | None, state: LayerState | None) -> Tensor:
    """Return the hidden states (B, T, D) for x (B, T, D), from zeros or from what the state keeps ("h" and "c")."""
    first = begins(documents, state)
    if state and "h" in state:
        h, c = state["h"], state["c"]
    else:
        h = c = x.new_zeros(x.shape[0], weights[1].shape[1])
    if first is None:
        parameters = [*weights, torch.zeros_like(weights[2])]  # torch has two vectors of biases; one is enough
        hidden, last, cell = torch.lstm(x, (h[None], c[None]), parameters, True, 1, 0.0, True, False, True)
        kept = last[0], cell[0]
    else:
        hidden, cells = Steps.apply(F.linear(x, weights[0], weights[2]), weights[1], ~first[..., None], h, c)
        kept = hidden[:, -1], cells[:, -1]
    if state is not None:
        state["h"], state["c"] = kept
    return hidden


class Steps(torch.autograd.Function):
    """The hidden states and cells (B, T, D) of an LSTM that begins anew where a token does not go on.

    `inputs` (B, T, 4D) is what x gives the gates, `recurrent` is (4D, D), `goes_on` (B, T, 1) says which tokens follow
    the one before, and h and c (B, D) are what was before. The backward pass goes back through time by hand: torch's
    packed sequences do the same six times slower on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, recurrent: Tensor, goes_on: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        D, keep = h.shape[1], goes_on.transpose(0, 1).to(inputs.dtype).contiguous()
        gates = inputs.transpose(0, 1).clone(memory_format=torch.contiguous_format)  # (T, B, 4D)
        hs, cs = (gates.new_empty(*gates.shape[:2], D) for _ in range(2))
        start = h, c
        for t, gate in enumerate(gates):
            gate.addmm_(h * keep[t], recurrent.t())
            gate[:, : 2 * D].sigmoid_()
            gate[:, 2 * D : 3 * D].tanh_()
            gate[:, 3 * D :].sigmoid_()
            i, f, g, o = gate.chunk(4, dim=1)
            c = torch.addcmul(i * g, f, c * keep[t], out=cs[t])
            h = torch.mul(o, c.tanh(), out=hs[t])
        ctx.save_for_backward(gates, recurrent, keep, hs, cs, *start)
        return hs.transpose(0, 1), cs.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, Tensor, Tensor]:
        gates, recurrent, keep, hs, cs, h, c = ctx.saved_tensors
        d_hs, d_cs = (gradient.transpose(0, 1) for gradient in gradients)
        before_h, before_c = (torch.cat([x[None], xs[:-1]]) * keep for x, xs in ((h, hs), (c, cs)))
        d_gates = torch.empty_like(gates)
        d_h, d_c = torch.zeros_like(h), torch.zeros_like(c)
        for t in range(len(gates) - 1, -1, -1):
            i, f, g, o = gates[t].chunk(4, dim=1)
            d_i, d_f, d_g, d_o = d_gates[t].chunk(4, dim=1)
            d_h, tanh = d_h + d_hs[t], cs[t].tanh()
            d_c = d_c + d_cs[t] + d_h * o * (1 - tanh * tanh)
            torch.mul(d_c * g, i * (1 - i), out=d_i)
            torch.mul(d_c * before_c[t], f * (1 - f), out=d_f)
            torch.mul(d_c * i, 1 - g * g, out=d_g)
            torch.mul(d_h * tanh, o * (1 - o), out=d_o)
            d_h, d_c = (d_gates[t] @ recurrent) * keep[t], d_c * f * keep[t]
        d_recurrent = d_gates.flatten(0, 1).t() @ before_h.flatten(0, 1)
        return d_gates.transpose(0, 1), d_recurrent, None, d_h, d_c
