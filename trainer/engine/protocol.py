"""What an engine must do. `trainer/engine/engine.py` takes steps on anything that does so: `deepspeed/` and `fsdp/`.

To add an engine: write a folder beside them with a module that has the functions of `Library`, and name it in
`trainer/engine/build.py` and in `parallel.engine` (`trainer/config/parallel.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainer.config.run import RunConfig
    from trainer.engine.batch import LocalBatch
    from trainer.engine.verdict import Verdict
    from trainer.models.interface import LanguageModel
    from trainer.parallel.mesh import Mesh
    from trainer.parallel.tensor.split import Split

WEIGHT = "weight"


@dataclass
class Fragment:
    """Flat views into the engine's own memory of one parameter's fp32 weights. The values are fp32.

    A rank *holds* a flat range of its tensor share of a parameter; where several ranks hold the same range, each
    *owns* a part of it, so that a checkpoint has every value once.
    """

    name: str
    held: tuple[int, int]  # the range of the share that the views cover
    owned: tuple[int, int]  # the part of it that this rank saves
    weight: Tensor
    home: Tensor  # the tensor whose optimizer state holds the moments
    offset: int  # where in `home`, flattened, the range begins

    @property
    def size(self) -> int:
        """Number of values held."""
        return self.held[1] - self.held[0]


class Sharded(Protocol):
    """A model on the mesh and its optimizer, as one library shards them. Every call is collective."""

    @property
    def module(self) -> nn.Module:
        """The model; its parameters may be shares."""
        ...

    @property
    def zero_stage(self) -> int:
        """What is sharded over replicas, as ZeRO counts it (Rajbhandari et al. 2020): 0 nothing, 3 everything."""
        ...

    @property
    def mean_over(self) -> int:
        """By how many replicas the engine divides the sum of gradients; 1 where it only sums."""
        ...

    def set_rates(self, lr: float, *, decay_share: float) -> None:
        """Set the learning rate of all groups, and weight decay times a share: see `trainer/optim/groups.py`."""
        ...

    def forward(self, batch: LocalBatch) -> Tensor:
        """Return the loss of each token, (B, T of this rank), in float32."""
        ...

    def backward(self, objective: Tensor, *, last: bool) -> None:
        """Add the gradient of a scalar. After the `last` micro-batch of a step, gradients are summed over replicas."""
        ...

    def update(self, *, last: bool, limit: Tensor | None = None) -> None:
        """End a micro-batch. After the last: clip and update, on all ranks alike or on none, as `verdict` says.

        There is no update where a gradient is not finite, nor where the norm of any rank is above `limit`.
        """
        ...

    @property
    def verdict(self) -> Verdict:
        """Judges the steps."""
        ...

    @property
    def waits(self) -> bool:
        """Whether each update has the host wait for the verdict, since the optimizer cannot apply it by itself."""
        ...

    def outcome(self) -> tuple[Tensor, Tensor]:
        """Return the global gradient norm of the last step before clipping, and 1.0 where it was not applied, else 0.0.

        Both are float32 of no dimension, on the device. A norm that is not finite may be any such number; one above the
        limit is returned as it is.
        """
        ...

    def fragments(self) -> Iterator[Fragment]:
        """Yield what this rank holds, in the order of the parameters."""
        ...

    def moments(self, fragment: Fragment) -> dict[str, Tensor]:
        """Return flat views of the optimizer's moments over the held range; empty before the first step."""
        ...

    def counters(self) -> dict[str, float]:
        """Return the optimizer's scalar state, such as Adam's step count, which all parameters share."""
        ...

    def prepare_moments(self, kinds_of: Callable[[str], list[str]], scalars: dict[str, float]) -> None:
        """Give a fresh optimizer zero moments and counters, as its first step would. `kinds_of` names the moments."""
        ...

    def publish_weights(self) -> None:
        """Carry fp32 weights that were written into the fragments to the parameters that the model computes with."""
        ...

    def close(self) -> None:
        """Release hooks and buffers."""
        ...


class Library(Protocol):
    """The functions of a module that shards models."""

    def prepare(self, device: torch.device, backend: str | None = None) -> None:
        """Learn of the world that torch.distributed has joined. Call it before anything else."""
        ...

    def share_layers(self, model: LanguageModel, mesh: Mesh, *, overlap: bool = False, fp8: bool = False) -> None:
        """Have the modules that the roles split compute with a tensor rank's share, in place.

        What is whole after it is cut by `cut_parameters`.
        """
        ...

    def spread(
        self,
        model: LanguageModel,
        config: RunConfig,
        mesh: Mesh,
        splits: Mapping[str, Split],
        *,
        lr: float,
        accumulation: int,
        device: torch.device,
    ) -> Sharded:
        """Return a model, whose tensor shares have their values, and its optimizer, sharded over replicas."""
        ...
