"""Seconds of collectives, by the ring algorithm.

An all-reduce moves 2 (n-1)/n of its bytes through each rank, a reduce-scatter or all-gather (n-1)/n.
"""

from __future__ import annotations

from dataclasses import dataclass

from launch.planner.rates import BUCKET, LATENCY, NETWORK_SHARE, NODE_SHARE, Rates
from launch.planner.shape import Way
from trainer.plan.gpus import Gpu
from trainer.plan.shape import Shape


@dataclass(frozen=True)
class Traffic:
    """What one rank sends and receives."""

    s: Shape
    w: Way
    gpu: Gpu
    rates: Rates

    @property
    def layers(self) -> float:
        """Return the layers of one pipeline stage."""
        return self.s.layers / self.w.pipeline

    @property
    def activations(self) -> float:
        """Bytes of a micro-batch's residual stream on one rank."""
        return self.w.micro_batch * self.s.T / self.w.sequence * self.s.D * self.w.value

    def tensor(self) -> float:
        """Return the seconds of a micro-batch: two all-reduces forward, two backward, two where forward runs again."""
        w = self.w
        if w.tensor == 1:
            return 0.0
        one = all_reduce(self.activations, w.tensor, self.link(1, w.tensor))
        if w.tensor > w.ranks_per_node:
            one += 2 * (w.tensor - 1) * self.rates.hop
        times = 6 if w.recompute == "full" else 4
        return self.layers * times * one * (1 - w.tensor_overlap * (1 - self.rates.contention))

    def sequence(self) -> float:
        """Return the seconds of a micro-batch: all-to-alls of q, k, v and of the output, in each pass.

        Ulysses (Jacobs et al. 2023, arXiv 2309.14509).
        """
        s, w = self.s, self.w
        if w.sequence == 1:
            return 0.0
        times = 3 if w.recompute == "full" else 2
        inside = w.tensor * w.sequence <= w.ranks_per_node
        # Unlike a ring, an all-to-all sends most of what each rank has out of its node, over that rank's own link.
        link = NODE_SHARE * self.gpu.link_node if inside else NETWORK_SHARE * self.gpu.link_network
        seconds = 0.0
        for mixer, layers in s.mixers:
            moved = self.activations * mixer.exchanged / s.D / w.tensor
            seconds += layers / w.pipeline * times * (moved * (w.sequence - 1) / w.sequence / link + 4 * LATENCY)
        return seconds

    def hand_over(self) -> float:
        """Return the seconds of a micro-batch's activations to the next pipeline stage and their gradients back.

        They are scattered over the tensor ranks of a stage, which send side by side.
        """
        w = self.w
        if w.pipeline == 1:
            return 0.0
        moved = 2 * w.chunks * self.activations / w.tensor
        return moved / (NETWORK_SHARE * self.gpu.link_network) + 2 * w.chunks * LATENCY

    def data(self, held: float, compute: float) -> float:
        """Return the seconds of a whole step's gradients and parameters, what compute hides taken off.

        `held` parameters are of one rank's model part, `compute` are the seconds of one micro-batch. By ZeRO's stage
        (Rajbhandari et al. 2020, section 7): up to stage 1 gradients are reduced once a step. At stage 2 they are after
        each micro-batch, since no rank keeps them whole, and at stage 3 parameters are gathered for each pass besides.
        """
        w, n = self.w, self.w.accumulation
        if w.replicas == 1:
            return 0.0
        # Without ZeRO the second half of an all-reduce hands out gradients, else it is the new parameters.
        gather = self._shards(held, w.value if w.zero else w.reduce_bytes)
        reduce = self._shards(held, w.reduce_bytes)
        if not w.overlap:
            return (n * reduce if w.zero >= 2 else reduce) + (2 * n * gather if w.zero == 3 else gather)
        forward = compute / w.passes
        backward = compute - forward
        if w.zero == 3:
            return n * (self._beside(gather, forward) + self._beside(gather + reduce, backward))
        if w.zero == 0:
            return self._beside(reduce + gather, backward)
        return (n if w.zero == 2 else 1) * self._beside(reduce, backward) + gather

    def _shards(self, held: float, size: int) -> float:
        """Return the seconds to gather or to reduce and scatter all parameters, `size` bytes each."""
        w, ranks = self.w, self.w.replicas
        messages = self.layers + 1 if w.zero == 3 else max(1.0, held / BUCKET)
        hops = (ranks - 1) * self.rates.hop if w.tensor * ranks > w.ranks_per_node else 0.0
        return held * size * (ranks - 1) / ranks / self.link(w.tensor, ranks) + messages * (LATENCY + hops)

    def _beside(self, traffic: float, compute: float) -> float:
        """Return by how much traffic lengthens the compute that it runs beside."""
        return max(traffic - compute, 0.0) + self.rates.contention * min(traffic, compute)

    def link(self, stride: int, ranks: int) -> float:
        """Return the bytes per second of a ring of so many ranks, each `stride` ranks from the next.

        A ring over nodes enters a node once for all ranks that it has there, over the network links of all of them.
        """
        inside = NODE_SHARE * self.gpu.link_node
        if stride * ranks <= self.w.ranks_per_node:
            return inside
        return min(inside, max(1, self.w.ranks_per_node // stride) * NETWORK_SHARE * self.gpu.link_network)


def all_reduce(size: float, ranks: int, link: float) -> float:
    """Return seconds of a ring all-reduce of `size` bytes."""
    return 2 * size * (ranks - 1) / ranks / link + LATENCY
