"""What fp8 asks of a run, known before any rank loads torch. The products are in `trainer/parallel/fp8.py`."""

from __future__ import annotations

from trainer.config.model import ModelConfig
from trainer.config.parallel import Degrees
from trainer.contract.errors import UserError
from trainer.models.registry import cost_of

NEEDED = (9, 0)  # compute capability of Hopper
_NEEDS = f"precision fp8 needs a Hopper GPU (compute capability {NEEDED[0]}.{NEEDED[1]} or above)"
NO_GPU = f"{_NEEDS}, but there is no GPU: set precision to bf16"
TILE = 16  # the tensor cores take fp8 matrices whose sides are multiples of this


def check_capability(gpu: str, capability: tuple[int, int]) -> None:
    """Raise `UserError` where a GPU, given by its name, has no fp8 tensor cores that the products can use.

    A capability of (0, 0) stands for other vendors' GPUs, whose fp8 has other formats.
    """
    if capability == (0, 0):
        raise UserError(f"{_NEEDS}, and {gpu} is none: set precision to bf16")
    if capability < NEEDED:
        raise UserError(f"{_NEEDS}, but {gpu} has {capability[0]}.{capability[1]}: set precision to bf16")


def check_fp8(model: ModelConfig, degrees: Degrees, *, micro_batch: int, gpu: bool) -> None:
    """Raise `UserError` where the ranks have no GPU, or a side of a matrix on a rank is not a multiple of 16."""
    if not gpu:
        raise UserError(NO_GPU)
    sides = {
        **cost_of(model.family).fp8_sides(model, degrees.tensor),
        "tokens of a micro-batch on a rank": micro_batch * model.context_length // degrees.sequence,
    }
    for name, side in sides.items():
        if side % TILE:
            raise UserError(f"precision fp8: {name} is {side}, not a multiple of {TILE}: change it, or take bf16")
