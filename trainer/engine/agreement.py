"""What ranks agree on at a step boundary: to stop, to save, to go back. It costs no collective of its own."""

from __future__ import annotations

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
        """Return whether any rank had asked for it before the last step ended; the same on every rank."""
        return what in self._agreed

    def exchange(self, loss: Tensor, mesh: Mesh) -> float:
        """Return the loss summed over replicas, and learn what any rank asks for, in one small collective."""
        asked = set(self._asked)
        numbers = torch.tensor([0.0, *(float(what in asked) for what in REQUESTS)]).to(loss.device)
        if mesh.tp_rank == 0:  # tensor ranks have the same loss: one of them counts
            numbers[0] = loss
        if mesh.world > 1:
            dist.all_reduce(numbers)
        total, *wishes = numbers.tolist()
        self._agreed = frozenset(what for what, wish in zip(REQUESTS, wishes, strict=True) if wish)
        self._asked -= ONCE & asked
        return float(total)
