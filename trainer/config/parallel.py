"""The parallel section: how one model is spread over ranks. It never changes what is computed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.config.base import Section


class ParallelConfig(Section):
    """Degrees of the mesh. Tensor ranks are innermost, so that they share a node."""

    data: int = Field(-1, description="data-parallel degree; -1 takes what the other degrees leave of the world")
    tensor: int = Field(1, gt=0, description="tensor-parallel degree")
    sequence: int = Field(1, gt=0, description="sequence-parallel (Ulysses) degree")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="what is sharded over data ranks (ZeRO, Rajbhandari 2020)")
    offload: Literal["none", "optimizer", "parameters"] = "none"
    recompute: Literal["none", "selective", "full"] = "none"
    compile: bool = False
    timeout_seconds: float = Field(600.0, gt=0, description="a collective that waits longer fails, and the run with it")
