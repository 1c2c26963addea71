"""The GPUs of this machine as slots: whole ones, or shares on which several small runs train side by side.

Kernels of small models leave most of a GPU idle. With MPS those of several processes run at the same time, without it
they take turns. Each rank keeps to its share of the memory (`trainer/parallel/start.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from launch.cluster.local.mps import Mps
from launch.cluster.this_machine import local_gpus
from trainer.contract.errors import UserError
from trainer.plan.gpus import SLOTS_VARIABLE


class LocalGpus:
    """`per_gpu` is the number of ranks that share a GPU. Raises UserError where so many `slots` have no place."""

    def __init__(self, environment: Mapping[str, str], slots: int, per_gpu: int) -> None:
        self.names, self.per_gpu = local_gpus(environment), per_gpu
        self.mps = Mps(environment) if per_gpu > 1 else None
        if per_gpu > 1 and not self.names:
            raise UserError(f"options.slots_per_gpu is {per_gpu}, but this machine has no GPU: leave it out")
        if self.names and slots > per_gpu * len(self.names):
            needs = "one rank needs one" if per_gpu == 1 else f"{per_gpu} ranks share one (options.slots_per_gpu)"
            raise UserError(f"{slots} ranks at a time, but this machine has {len(self.names)} GPUs: {needs}")

    def __bool__(self) -> bool:
        return bool(self.names)

    def check(self, name: str, ranks: int) -> None:
        """Raise UserError for a job with more ranks than GPUs, since NCCL takes one rank of a job on each."""
        if self.names and ranks > len(self.names):
            raise UserError(
                f"job {name!r} has {ranks} ranks, each on a GPU of its own, and this machine has {len(self.names)}: "
                "only different jobs share a GPU"
            )

    def choose(self, taken: Iterable[str], ranks: int) -> tuple[str, ...] | None:
        """Return a GPU for each rank of a job, the emptiest first; None while there are too few with a free slot."""
        if not self.names:
            return ()
        held = Counter(taken)
        free = sorted((n for n in self.names if held[n] < self.per_gpu), key=lambda n: held[n])  # stable: in order
        return tuple(sorted(free[:ranks], key=self.names.index)) if len(free) >= ranks else None

    def environment(self, devices: tuple[str, ...]) -> dict[str, str]:
        """Return the variables of a rank that may use these GPUs."""
        if not devices:
            return {}
        shared = {SLOTS_VARIABLE: str(self.per_gpu)} if self.per_gpu > 1 else {}
        return {"CUDA_VISIBLE_DEVICES": ",".join(devices), **shared, **(self.mps.variables if self.mps else {})}

    def start(self, log: Path) -> None:
        """Start MPS where GPUs are shared and it is installed. What it says goes to `log`."""
        if self.mps is not None:
            self.mps.start(log)

    def close(self) -> None:
        """End MPS, if it was started here."""
        if self.mps is not None:
            self.mps.close()
