"""What a rank holds when memory runs out: its parts, counted once each, in a file beside its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.dist.pool import RankPool
from tests.dist.runs import tiny
from tests.dist.test_engine import batch_of, open_engine
from trainer.config.run import RunConfig
from trainer.parallel.tensor.local import local


def run_out(config: RunConfig, logs: str) -> dict[str, Any]:
    """Take a step, ask for more memory than there is, and return what was left behind and what there is to count."""
    from trainer.engine.memory_parts import is_out_of_memory, leave_memory

    engine = open_engine(config)
    engine.train_step(batch_of(engine, 0), 1e-3)
    leave_memory(engine, Path(logs), ValueError("something else"))
    assert not list(Path(logs).glob(f"memory_{engine.mesh.rank}.json"))
    try:
        torch.empty(1 << 50)
    except RuntimeError as error:
        assert is_out_of_memory(error)
        leave_memory(engine, Path(logs), error)
    fragments = list(engine.sharded.fragments())
    found = {
        "rank": engine.mesh.rank,
        "parameters": sum(local(p).numel() * 4 for p in engine.module.parameters()),
        "moments": sum(2 * f.size * 4 for f in fragments),
        "masters": sum(f.size * 4 for f in fragments),
    }
    engine.close()
    return found


@pytest.mark.parametrize(("engine", "stage"), [("deepspeed", 0), ("deepspeed", 1), ("fsdp", 2)])
def test_the_parts_of_a_rank_that_ran_out_are_counted_once(
    ranks: RankPool, tmp_path: Path, engine: str, stage: int
) -> None:
    for expected in ranks.run(2, run_out, tiny(parallel={"engine": engine, "zero_stage": stage}), str(tmp_path)):
        row = json.loads((tmp_path / f"memory_{expected['rank']}.json").read_text())
        parts = row["memory_bytes"]
        assert row["rank"] == expected["rank"] and "allocate" in row["error"]
        padding = 1024  # DeepSpeed's flat buffers end at a round number
        assert abs(parts["parameters"] - expected["parameters"]) <= padding, parts
        masters = expected["masters"] if engine == "deepspeed" and stage else 0  # else parameters are their own master
        assert abs(parts["optimizer"] - expected["moments"] - masters) <= 3 * padding, (parts, expected)
        assert parts["peak"] == parts["parameters"] + parts["gradients"] + parts["optimizer"] + parts["others"]
