"""The step that was not finite, taken again: which module, which tensor, which rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.dist.pool import RankPool
from tests.dist.runs import MicroBatch, global_batch, micro_batches, tiny
from tests.dist.test_engine import open_engine
from trainer.config.run import RunConfig


class Spoiled(torch.autograd.Function):
    """Gives what it is given; its gradient is not a number."""

    @staticmethod
    def forward(ctx: Any, given: torch.Tensor) -> torch.Tensor:
        return given.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * torch.nan


def trace(config: RunConfig, how: str, victim: int) -> dict[str, Any]:
    """Plant a fault on one rank, take a step that is skipped, and say what is found and what changed."""
    from trainer.engine.non_finite import sentence, trace_step

    engine = open_engine(config)
    batches = micro_batches(global_batch(0), engine.mesh.dp_rank, engine.mesh.dp_size, 1)
    mine, block = engine.mesh.rank == victim, engine.module.blocks[1]
    if how == "weights" and mine:
        batches = [MicroBatch(batches[0].inputs, batches[0].targets, torch.full(batches[0].targets.shape, torch.nan))]
    elif how == "weights":
        batches = [MicroBatch(batches[0].inputs, batches[0].targets, torch.ones(batches[0].targets.shape))]
    calls = [0]

    def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if not mine or (how == "once" and calls[0] > 1):
            return output
        if how == "backward":
            output.register_hook(lambda gradient: gradient / 0)
            return output * 1.0
        return output / 0

    def spoil_parameter(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 0 * Spoiled.apply(module.weight).sum() if mine else output

    if how == "parameter":
        block.mlp.down.register_forward_hook(spoil_parameter)
    elif how != "weights":
        block.mlp.register_forward_hook(spoil)
    before = [f.weight.clone() for f in engine.sharded.fragments()]
    outcome = engine.train_step(batches, 1e-3)
    assert outcome.skipped
    found = trace_step(engine, batches, 1e-3)
    unchanged = all(torch.equal(a, f.weight) for a, f in zip(before, engine.sharded.fragments(), strict=True))
    engine.close()
    return {**found, "says": sentence(found), "unchanged": unchanged}


@pytest.mark.parametrize(
    ("layout", "how", "phase", "module"),
    [
        ({}, "forward", "forward", "blocks.1.mlp"),
        ({"tensor": 2}, "forward", "forward", "blocks.1.mlp"),
        ({"zero_stage": 3}, "forward", "forward", "blocks.1.mlp"),
        ({"recompute": "full"}, "forward", "forward", "blocks.1.mlp"),
        ({}, "backward", "backward", "blocks.1.mlp"),
        ({}, "parameter", "backward", "blocks.1.mlp.down"),
        ({}, "weights", "batch", ""),
        ({"engine": "fsdp", "zero_stage": 3}, "forward", "forward", "blocks.1.mlp"),
        ({"engine": "fsdp", "zero_stage": 3}, "backward", "backward", "blocks.1.mlp"),
        ({"engine": "fsdp", "zero_stage": 3}, "parameter", "backward", "blocks.1.mlp.down"),
        ({"engine": "fsdp", "zero_stage": 1, "recompute": "full"}, "parameter", "backward", "blocks.1.mlp.down"),
    ],
)
def test_the_first_module_on_the_first_rank_is_named(
    ranks: RankPool, layout: dict, how: str, phase: str, module: str
) -> None:
    config = tiny(parallel=layout, batch={"tokens_per_step": 128})
    for result in ranks.run(2, trace, config, how, 1):
        assert (result["phase"], result["repeats"], result["unchanged"]) == (phase, True, True), result
        assert result["module"].removeprefix("module.").startswith(module), result
        assert how != "parameter" or result["tensor"] == "gradient of weight", result
        assert result["rank"] == 1 and "on rank 1: " in result["says"]


def test_a_step_that_is_finite_the_second_time_says_so(ranks: RankPool) -> None:
    (first, second) = ranks.run(2, trace, tiny(), "once", 1)
    assert first == second and first["repeats"] is False and "module" not in first
    assert first["says"].startswith("the same step is finite when it is taken again")
