"""What `parallel.compile: auto` means: on GPUs, where it was found equal to one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.dist.runs import tiny
from trainer.engine.compiled import GRAPHS, compile_blocks
from trainer.plan.compiling import compiles, why_not_compiled
from trainer.plan.plan import make_plan


def test_auto_compiles_on_gpus_alone_and_the_plan_says_so() -> None:
    config = tiny(device="auto")
    assert config.parallel.compile == "auto"
    assert compiles(config, gpu=True) and not compiles(config, gpu=False)
    assert make_plan(config, world=2, gpu=True).compiled and not make_plan(config, world=2, gpu=False).compiled


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_for_is_done(asked: bool, gpu: bool) -> None:
    assert compiles(tiny(parallel={"compile": asked}), gpu=gpu) is asked


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"parallel": {"zero_stage": 3}}, "zero_stage 3"),
        ({"parallel": {"recompute": "full"}}, "recompute"),
        ({"model": {"dropout": 0.1}}, "dropout"),
        ({"tracking": {"norms_every": "5 steps", "activations": True}}, "tracking.activations"),
        ({"precision": "fp8", "device": "cuda"}, "precision fp8"),
    ],
)
def test_auto_leaves_alone_what_was_never_compared(sections: Any, reason: str) -> None:
    config = tiny(**sections)
    assert reason in str(why_not_compiled(config)) and not compiles(config, gpu=True)


class Traced(nn.Module):
    """Compiled as far as torch._dynamo goes, whose limits are asked here."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1

    def compile(self, *_: object, **__: object) -> None:
        super().compile(backend="eager", dynamic=False)


def test_a_block_that_is_compiled_too_often_ends_the_run_and_is_not_run_otherwise() -> None:
    """One rank that ran a block uncompiled beside a compiled peer had gradients summed in another order, and wrong."""
    from torch._dynamo import config, reset
    from torch._dynamo.exc import FailOnRecompileLimitHit

    reset()
    with config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        block = Traced()
        compile_blocks([block])
        assert config.recompile_limit == GRAPHS
        for rows in range(1, 12):  # more than torch's own limit
            assert block(torch.ones(rows, 2)).shape == (rows, 2)
        config.recompile_limit = 12
        with pytest.raises(FailOnRecompileLimitHit):
            for rows in range(12, 15):
                block(torch.ones(rows, 2))
    reset()
