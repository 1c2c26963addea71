"""What ranks agree on at a step boundary: to stop, to save, to go back. It costs no collective of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.parallel.mesh import Mesh

# leave: end at once and write nothing; roll_back, halt: rules of trainer/guard/health.py
REQUESTS = ("stop", "save", "leave", "roll_back", "halt")
ONCE = {"save", "roll_back"}  # what is over when it was done


class Agreement:
    """Requests of single ranks, which travel with the loss of a step and then hold on all ranks."""

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._agreed: frozenset[str] = frozenset()

    def ask(self, what: str) -> None:
        """Ask all ranks for one of REQUESTS at the next step boundary. Signal-safe."""
        assert what in REQUESTS
        self._asked.add(what)

    def agreed(self, what: str) -> bool:
        """Return whether any rank had asked for it before the step ended that was read last; the same on every rank."""
        return what in self._agreed

    def exchange(self, loss: Tensor, mesh: Mesh) -> Tensor:
        """Return the loss summed over replicas, and how many ranks ask for each of REQUESTS, in one small collective.

        The vector (1 + REQUESTS) stays on the device of the loss; `learn` takes its second part once it was read.
        """
        asked = set(self._asked)
        numbers = torch.zeros(1 + len(REQUESTS), device=loss.device)
        if mesh.tp_rank == 0:  # tensor ranks have the same loss: one of them counts
            numbers[0] = loss
        for place, what in enumerate(REQUESTS, start=1):
            if what in asked:
                numbers[place].fill_(1.0)
        if mesh.world > 1:
            dist.all_reduce(numbers)
        self._asked -= ONCE & asked
        return numbers

    def learn(self, counts: Sequence[float]) -> None:
        """Take how many ranks ask for each of REQUESTS."""
        self._agreed = frozenset(what for what, count in zip(REQUESTS, counts, strict=True) if count)
