"""Seconds that one rank computes in one micro-batch, forward and backward: products, attention, elementwise kernels."""

from __future__ import annotations

from dataclasses import dataclass

from launch.planner.gpus import Gpu
from launch.planner.rates import FLASH_BACKWARD, LAUNCH, MEMORY_SHARE, Rates
from launch.planner.shape import Shape, Way


@dataclass(frozen=True)
class Compute:
    """One micro-batch on one rank."""

    s: Shape
    w: Way
    gpu: Gpu
    rates: Rates

    @property
    def tokens(self) -> float:
        return self.w.micro_batch * self.s.T / self.w.sequence

    @property
    def layers(self) -> float:
        return self.s.L / self.w.pipeline

    @property
    def bandwidth(self) -> float:
        """Bytes per second that elementwise kernels move."""
        return MEMORY_SHARE * self.gpu.bandwidth

    def product(self, m: float, n: float, k: float, *, fp8: bool = False) -> float:
        """Return the seconds of an m x k by k x n product: its arithmetic, and the traffic that this does not hide.

        Traffic grows with the sides and arithmetic with their product, so thin matrices are slow.
        """
        share = self.rates.hopper if self.gpu.power_limited else self.rates.ampere
        rate = share * self.gpu.flops * (2 * self.rates.fp8 if fp8 else 0.5 if self.w.value == 4 else 1)
        moved = (m * k + k * n + m * n) * (1 if fp8 else self.w.value)
        return 2 * m * n * k / rate + self.rates.edge * moved / self.gpu.bandwidth

    def matrices(self) -> float:
        """Return the seconds of all linear layers and the head, and of casting their operands to fp8."""
        s, w, tokens, fp8 = self.s, self.w, self.tokens, self.w.precision == "fp8"
        up = 2 * s.F if s.gated else s.F
        # (outputs, inputs) on one rank
        sides = [
            ((s.q + 2 * s.kv) / w.tensor, s.D),
            (s.D, s.q / w.tensor),
            (up / w.tensor, s.D),
            (s.D, s.F / w.tensor),
        ]
        layer = w.passes * max(sum(self.product(tokens, n, k, fp8=fp8) for n, k in sides), LAUNCH)
        if w.recompute == "selective":  # the product that leads to attention is made again too
            layer += self.product(tokens, *sides[0], fp8=fp8)
        if fp8:  # inputs and weights in each forward pass, gradients and weights in the backward pass
            cast = sum((w.passes - 2) * tokens * k + tokens * n + (w.passes - 1) * n * k for n, k in sides)
            layer += cast * w.cast_bytes / self.bandwidth
        head = (4 if w.chunked_head else 3) * self.product(tokens, s.V / w.tensor, s.D) / w.pipeline
        return self.layers * layer + head

    def attention(self) -> float:
        """Return the seconds of scores and weighted sums."""
        s, w = self.s, self.w
        heads, forward = s.H / w.tensor, w.passes - 2 + (w.recompute == "selective")
        if not w.flash:
            each = 2 * heads * w.micro_batch * self.product(s.T / w.sequence, s.T, s.head_dim)
            return self.layers * (forward + 2) * each
        share = self.rates.hopper_attention if self.gpu.power_limited else self.rates.ampere_attention
        flops = 2 * self.tokens * 2 * (s.T / 2) * heads * s.head_dim  # the masked half is skipped
        return self.layers * (forward + FLASH_BACKWARD) * flops / (share * self.gpu.flops)

    def elementwise(self) -> float:
        """Return the seconds in which norms, sums, activations, rotations, softmax and loss move their bytes.

        Values of a token that a forward pass reads and writes; a backward pass moves twice as many.
        """
        s, w = self.s, self.w
        if w.compiled:  # each sum together with the norm that follows it
            whole, mlp, rotated = 8 * s.D, (3 if s.gated else 2) * s.F, 2 * (s.q + s.kv)
        else:
            whole, mlp, rotated = 10 * s.D, (5 if s.gated else 2) * s.F, 8 * (s.q + s.kv)
        scores = 0.0 if w.flash else 4.5 * s.H * s.T  # softmax and dropout, each read and written, and a mask
        layer = whole + (mlp + s.rotary * rotated + scores) / w.tensor
        loss = w.loss_bytes * s.V / w.tensor / w.pipeline
        return self.tokens * (self.layers * w.passes * layer * w.value + loss) / self.bandwidth
