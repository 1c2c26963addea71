"""A sweep writes the expected curves of cells that begin once enough others are done."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from launch.cluster.job import JobSpec, JobState, JobStatus
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig
from tests.launch.test_sweep_run import RESULT, RUN, drive
from trainer.contract.expected import ExpectedCurve
from trainer.contract.leaving import Follower
from trainer.contract.run_dir import RunDir, Status, append_json

STEPS, SEEDS = 40, [0, 1, 2, 3, 4]


def test_cells_get_their_curves_once_enough_others_are_done(tmp_path: Path) -> None:
    run = {**{key: value for key, value in RUN.items() if key != "tokens"}, "steps": STEPS}
    cells = cells_of(SweepConfig.model_validate({"name": "s", "run": run, "vary": {"seed": SEEDS}}))
    order, looks, had = [cell.id for cell in cells], Counter[str](), dict[str, bool]()

    def outcome(spec: JobSpec, starts: int) -> JobStatus:
        """End one cell a look. All were handed over at once, and each finds its curve when it begins, or not."""
        looks[spec.name] += 1
        if looks[spec.name] <= order.index(spec.name):
            return JobStatus(JobState.PENDING)
        run_dir = RunDir(spec.run_dir)
        had[spec.name] = run_dir.expected.exists()
        noise = 0.01 * np.random.default_rng(len(had)).standard_normal(STEPS)
        rows = [{"kind": "train", "step": s, "loss": 2 + 3 / s + noise[s - 1]} for s in range(1, STEPS + 1)]
        append_json(run_dir.metrics, *rows)
        run_dir.result.write_text(json.dumps(RESULT))
        run_dir.write_status(Status.DONE)
        return JobStatus(JobState.DONE, 0)

    ran, _ = drive(tmp_path / "s", cells, outcome)
    assert list(ran.stands.done) == order
    assert list(had.values()) == [False, False, False, True, True]
    curve = ExpectedCurve.load(ran.cells[-1].run_dir.expected)
    assert curve.cells == order[:4]
    mean, _, _ = Follower(curve).at(20)
    assert math.exp(mean) == pytest.approx(2.15, abs=0.05)
