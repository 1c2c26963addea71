"""Seconds that one rank computes in one micro-batch, forward and backward: products, attention, elementwise kernels."""

from __future__ import annotations

from dataclasses import dataclass

from launch.planner.rates import FLASH_BACKWARD, LAUNCH, MEMORY_SHARE, SERIAL_KERNEL, Rates
from launch.planner.shape import Way
from trainer.plan.gpus import Gpu
from trainer.plan.shape import MixerShape, Shape


@dataclass(frozen=True)
class Compute:
    """One micro-batch on one rank."""

    s: Shape
    w: Way
    gpu: Gpu
    rates: Rates

    @property
    def tokens(self) -> float:
        """Return the tokens of a micro-batch that one sequence rank works on."""
        return self.w.micro_batch * self.s.T / self.w.sequence

    @property
    def mixers(self) -> list[tuple[MixerShape, float]]:
        """Mixers, each with the layers that it has on this rank."""
        return [(mixer, layers / self.w.pipeline) for mixer, layers in self.s.mixers]

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
        s, w = self.s, self.w
        head = (4 if w.chunked_head else 3) * self.product(self.tokens, s.V / w.tensor, s.D) / w.pipeline
        return sum(layers * self._layer(mixer) for mixer, layers in self.mixers) + head

    def _layer(self, mixer: MixerShape) -> float:
        """Return the seconds of one layer's linear layers."""
        w, tokens, fp8 = self.w, self.tokens, self.w.precision == "fp8"
        sides = [product.on_rank(w.tensor) for product in (*mixer.products, *self.s.mlp)]
        layer = w.passes * max(sum(self.product(tokens, n, k, fp8=fp8) for n, k in sides), LAUNCH)
        if w.recompute == "selective":  # the products that lead into the mixer are made again too
            layer += sum(self.product(tokens, n, k, fp8=fp8) for n, k in sides[: len(mixer.products) - 1])
        if fp8:  # inputs and weights in each forward pass, gradients and weights in the backward pass
            cast = sum((w.passes - 2) * tokens * k + tokens * n + (w.passes - 1) * n * k for n, k in sides)
            layer += cast * w.cast_bytes / self.bandwidth
        return layer

    def attention(self) -> float:
        """Return the seconds of what mixes tokens: scores and weighted sums, or scans."""
        return sum(layers * self._mixing(mixer) for mixer, layers in self.mixers)

    def _mixing(self, mixer: MixerShape) -> float:
        """Return the seconds of one layer, beside its linear layers."""
        s, w = self.s, self.w
        heads, forward = mixer.heads / w.tensor, w.passes - 2 + (w.recompute == "selective")
        serial = (forward + 2) * s.T * mixer.serial_kernels * SERIAL_KERNEL
        if heads and not w.flash:
            each = 2 * heads * w.micro_batch * self.product(s.T / w.sequence, s.T, mixer.head_dim)
            return (forward + 2) * each
        share = self.rates.hopper_attention if self.gpu.power_limited else self.rates.ampere_attention
        flops = 2 * self.tokens * 2 * mixer.keys_seen(s.T) * heads * mixer.head_dim  # the masked half is skipped
        flops += self.tokens * mixer.flops / w.tensor
        return (forward + FLASH_BACKWARD) * flops / (share * self.gpu.flops) + serial

    def elementwise(self) -> float:
        """Return the seconds in which norms, sums, activations, rotations, softmax and loss move their bytes.

        Values of a token that a forward pass reads and writes; a backward pass moves twice as many.
        """
        s, w = self.s, self.w
        moved = sum(layers * w.passes * self._values(mixer) * w.value for mixer, layers in self.mixers)
        loss = w.loss_bytes * s.V / w.tensor / w.pipeline
        return self.tokens * (moved + loss) / self.bandwidth

    def _values(self, mixer: MixerShape) -> float:
        """Return the values of a token that elementwise kernels of one layer read and write."""
        s, w = self.s, self.w
        if w.compiled:  # each sum together with the norm that follows it
            whole, mlp, own = 8 * s.D, (3 if s.gated else 2) * s.F, mixer.fused_values
        else:
            whole, mlp, own = 10 * s.D, (5 if s.gated else 2) * s.F, mixer.values
        scores = 0.0 if w.flash else 4.5 * mixer.heads * s.T  # softmax and dropout, each read and written, and a mask
        whole += 2 * (s.norms - 2) * s.D
        return whole + (mlp + own + scores) / w.tensor
