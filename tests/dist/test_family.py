"""A family that only tests know trains on any number of replicas as in one process."""

from __future__ import annotations

import pytest
import torch

from tests.dist.pool import RankPool
from tests.dist.runs import global_batch, micro_batches
from tests.unit.toy_family import TOY, toy


def train(zero_stage: int) -> list[float]:
    """Train the toy on this world and return the losses."""
    from trainer.engine.build import build_engine
    from trainer.models import registry
    from trainer.models.build import build_model
    from trainer.parallel.start import start

    registry.FAMILIES["toy"] = TOY
    config, device = toy(parallel={"zero_stage": zero_stage}), torch.device("cpu")
    mesh = start(config.parallel, device)
    engine = build_engine(config, build_model(config.model, 0), mesh, lr=1.0, accumulation=1, device=device)
    losses = []
    for step in range(20):
        batches = micro_batches(global_batch(step), mesh.dp_rank, mesh.dp_size, 1)
        losses.append(engine.train_step(batches, 1e-2).loss)
    engine.close()
    return losses


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_two_ranks_equal_one(ranks: RankPool, zero_stage: int) -> None:
    (alone,) = ranks.run(1, train, 0)
    assert alone[-1] < alone[0] - 0.1
    for losses in ranks.run(2, train, zero_stage):
        assert losses == pytest.approx(alone, abs=2e-6)
