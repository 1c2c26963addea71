"""What `parallel.compile: auto` means: on GPUs, where it was found equal to one process."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dist.runs import tiny
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
        ({"parallel": {"zero_stage": 2}}, "zero_stage 2"),
        ({"parallel": {"engine": "fsdp"}}, "engine fsdp"),
        ({"parallel": {"recompute": "full"}}, "recompute"),
        ({"model": {"dropout": 0.1}}, "dropout"),
        ({"tracking": {"norms_every": "5 steps", "activations": True}}, "tracking.activations"),
        ({"precision": "fp8", "device": "cuda"}, "precision fp8"),
    ],
)
def test_auto_leaves_alone_what_was_never_compared(sections: Any, reason: str) -> None:
    config = tiny(**sections)
    assert reason in str(why_not_compiled(config)) and not compiles(config, gpu=True)
