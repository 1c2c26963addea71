"""Trunks and branches: who parts where, in which order they start, and what is written for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from launch.cluster.job import JobSpec, JobState, JobStatus
from launch.commands.design import design
from launch.sweep.cells.cell import Branch, Cell
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig, load_sweep
from tests.checkpoints import small_manifest, write
from tests.launch.test_sweep_cells import RUN
from tests.launch.test_sweep_run import Pretend, Ran, drive
from tests.launch.test_sweep_submit import Stub, resume, stub, submit
from trainer.config.load import load_run
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status, write_atomically
from trainer.plan.identity import result_hash

__all__ = ["stub"]

WSD = {"kind": "wsd", "warmup": "2 steps", "decay": "20%"}
BRANCHED = {
    "name": "s",
    "ranks": 2,
    "trunks": True,
    "run": {**RUN, "tokens": None, "schedule": WSD},
    "vary": {"model.size": ["12k", "50k"], "steps": [10, 20, 100, 90]},
}


def cells(**changes: object) -> list[Cell]:
    return cells_of(SweepConfig.model_validate({**BRANCHED, **changes}))


def test_cells_of_one_size_part_from_the_longest_where_their_cooldown_begins() -> None:
    found = cells()
    short, middle, trunk, almost = found[:4]
    assert (short.branch, middle.branch) == (Branch(trunk.id, 8), Branch(trunk.id, 16))
    assert trunk.branch is None and trunk.config.checkpoint.keep_at == (8, 16, 72)
    assert almost.branch == Branch(trunk.id, 72)
    assert {c.branch.trunk for c in found[4:] if c.branch} == {found[6].id}
    assert [c.id for c in found] == [c.id for c in cells(trunks=False)], "trunks change no name"


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"kind": "cosine", "warmup": "2 steps"}, "set schedule.kind to wsd"),
        ({**WSD, "warmup": "10%"}, "schedule.warmup in steps or tokens"),
    ],
)
def test_a_schedule_that_depends_on_the_length_is_refused(schedule: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cells(run={**BRANCHED["run"], "schedule": schedule})


def run_sweep(directory: Path, trunk_passes: bool) -> tuple[Ran, Pretend, dict[str, bool]]:
    """Run the sweep of one size; the trunk keeps its checkpoints, or fails before the first."""
    known = {c.id: c for c in cells(vary={"steps": [10, 20, 100]})}
    from_trunk: dict[str, bool] = {}

    def outcome(spec: JobSpec, _: int) -> JobStatus:
        cell, run_dir = known[spec.name], RunDir(spec.run_dir)
        from_trunk[cell.id] = load_run(run_dir.config).checkpoint.source is not None
        if cell.branch is None and not trunk_passes:
            return JobStatus(JobState.FAILED, 1, reason="no memory")
        for other in known.values():
            if cell.branch is None and other.branch is not None:
                write(other.branch.checkpoint(directory / "cells").parent, small_manifest(other.branch.step))
        run_dir.write_status(Status.DIVERGED)  # ended, and with no result to collect
        return JobStatus(JobState.DONE, 0)

    sweep, backend = drive(directory, list(known.values()), outcome)
    return sweep, backend, from_trunk


def test_branches_start_after_their_trunk_and_from_its_checkpoint(tmp_path: Path) -> None:
    _, backend, from_trunk = run_sweep(tmp_path, trunk_passes=True)
    short, middle, trunk = (c.id for c in cells(vary={"steps": [10, 20, 100]}))
    assert backend.submitted == [trunk, short, middle]
    assert from_trunk == {trunk: False, short: True, middle: True}


def test_branches_of_a_failed_trunk_are_not_started(tmp_path: Path) -> None:
    sweep, backend, _ = run_sweep(tmp_path, trunk_passes=False)
    assert tuple(backend.submitted) == sweep.stands.failed and len(backend.submitted) == 1
    assert len(sweep.stands.waiting) == 2


def test_slurm_gets_the_trunks_first_and_the_branches_on_resume(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    (stub.root / "s.yaml").write_text(yaml.safe_dump({**BRANCHED, "vary": {"steps": [10, 100]}}))
    submit(stub)
    branch, trunk = cells_of(load_sweep(stub.root / "s.yaml"))
    assert "#SBATCH --array=0-0" in stub.submitted()[0] and trunk.id in stub.submitted()[0]
    assert "1 cells wait for their trunk" in capsys.readouterr().out
    stub.says(t100_0="RUNNING")
    resume(stub)
    assert len(stub.submitted()) == 1
    below = stub.root / "runs" / "s" / "cells"
    assert branch.branch is not None
    point = branch.branch.checkpoint(below)
    write_atomically(point / "manifest.json", "{}")  # damaged: the trunk will write it again
    resume(stub)
    assert len(stub.submitted()) == 1
    write(point.parent, small_manifest(branch.branch.step))
    resume(stub)
    assert branch.id in stub.submitted()[1] and trunk.id not in stub.submitted()[1]
    config = load_run(RunDir(below / branch.id).config)
    assert config.checkpoint.load == "always"
    assert result_hash(config, gpu=False) == result_hash(branch.config, gpu=False)


def test_the_design_of_trunks_is_written_as_a_sweep_that_branches(tmp_path: Path) -> None:
    out = tmp_path / "t.yaml"
    args = ["--flops", "1e17", "--smallest", "1M", "--largest", "10M", "--target", "1e19"]
    CliRunner().invoke(
        design, [*args, "--family", "trunks", "--run", "cell", "--out", str(out)], catch_exceptions=False
    )
    found = cells_of(load_sweep(out))
    assert len(found) == 20 and sum(c.branch is None for c in found) == 5
