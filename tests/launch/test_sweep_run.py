"""A sweep against a backend that only pretends: nothing twice, nothing lost, failures kept with their reason."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.cluster.config import LOCAL
from launch.cluster.job import JobSpec, JobState, JobStatus
from launch.run.run_state import state_of
from launch.sweep.cells.cells import Cell, cells_of
from launch.sweep.cells.config import SweepConfig
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.execute.act import recorded_cluster
from launch.sweep.execute.decide import Decision, Limits, Standing, stand
from launch.sweep.execute.reconcile import reconcile
from launch.sweep.execute.underway import Place, Underway
from launch.sweep.ledger import ledger
from tests.launch.test_sweep_cells import RUN
from trainer.contract.exit_codes import EXIT_PREEMPTED
from trainer.contract.run_dir import RunDir, Status, append_json, write_atomically
from trainer.plan.plan import make_plan

EVALUATION = {
    "eval_set": "held_out", "loss": 2.0, "loss_sem": 0.1, "perplexity": 7.39, "bits_per_byte": 1.0,
    "loss_by_position": [2.0], "evaluated_tokens": 10,
}  # fmt: skip
RESULT = {
    "step": 10, "tokens": 10240, "train_loss": 2.1, "tokens_per_second": 100.0, "seconds": 3.0, "unique_tokens": 99,
    "skipped_steps": [], "tokenizer_hash": "t", "data_hash": "d",
    "evaluations": [EVALUATION, {**EVALUATION, "eval_set": "other"}],
}  # fmt: skip


class Pretend:
    """A backend whose jobs end at once, as `outcome` says."""

    def __init__(self, outcome: Callable[[JobSpec, int], JobStatus]) -> None:
        self.outcome, self.submitted, self.specs = outcome, [], {}

    def submit(self, spec: JobSpec) -> str:
        self.submitted.append(spec.name)
        self.specs[str(len(self.specs))] = spec
        return str(len(self.specs) - 1)

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        return {i: self.outcome(self.specs[i], self.submitted.count(self.specs[i].name)) for i in ids}

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        return iter(())

    def cancel(self, job: str) -> None:
        raise AssertionError("nothing is cancelled")

    def render(self, spec: JobSpec) -> str:
        return ""

    def wait(self, seconds: float) -> None:
        pass


def finish(spec: JobSpec) -> JobStatus:
    run_dir = RunDir(spec.run_dir)
    write_atomically(run_dir.result, json.dumps(RESULT))
    write_atomically(run_dir.run, json.dumps({"git_revision": "abc"}))
    cell = next(c for c in cells() if c.id == spec.name)
    write_atomically(run_dir.plan, make_plan(cell.config, world=2).to_json())
    run_dir.write_status(Status.DONE)
    return JobStatus(JobState.DONE, 0)


@functools.cache
def cells() -> list[Cell]:
    return cells_of(SweepConfig.model_validate({"name": "s", "run": RUN, "vary": {"seed": [0, 1, 2]}}))


@dataclass
class Ran:
    """A sweep that was run to its end."""

    sweep: Underway
    decision: Decision
    limits: Limits

    @property
    def stands(self) -> Standing:
        return stand(self.decision.cells, self.limits)

    @property
    def ledger(self) -> Path:
        return self.sweep.ledger

    @property
    def cells(self) -> Sequence[PlannedCell]:
        return self.sweep.cells

    def why(self, cell: str) -> str:
        (found,) = [one for one in self.cells if one.id == cell]
        return state_of(found.run_dir).reason


def planned(directory: Path, cells: Sequence[Cell]) -> list[PlannedCell]:
    return [PlannedCell(c, make_plan(c.config, world=2), RunDir(directory / "cells" / c.id)) for c in cells]


def drive(
    directory: Path,
    cells: Sequence[Cell],
    outcome: Callable[[JobSpec, int], JobStatus],
    show: Callable[[Decision], None] = lambda _: None,
    retry: bool = False,
    cluster: str = "",
) -> tuple[Ran, Pretend]:
    backend, limits = Pretend(outcome), Limits(queued=False, retry=retry)
    sweep = Underway(directory, planned(directory, cells), Place(LOCAL, JobSpec, driver=backend, name=cluster))
    return Ran(sweep, reconcile(sweep, limits, show), limits), backend


def run(directory: Path, outcome: Callable[[JobSpec, int], JobStatus], retry: bool = False) -> tuple[Ran, Pretend]:
    return drive(directory, cells(), outcome, retry=retry)


def test_every_cell_is_trained_once_and_a_second_sweep_trains_nothing(tmp_path: Path):
    sweep, backend = run(tmp_path, lambda spec, _: finish(spec))
    assert backend.submitted == [c.id for c in cells()]
    first = sweep.ledger.read_bytes()
    assert [row["cell"] for row in ledger.read(sweep.ledger)] == [c.id for c in cells() for _ in range(2)]
    again, backend = run(tmp_path, lambda spec, _: finish(spec))
    assert backend.submitted == []
    assert again.ledger.read_bytes() == first


def test_a_torn_ledger_gets_its_lost_rows_back(tmp_path: Path):
    sweep, _ = run(tmp_path, lambda spec, _: finish(spec))
    whole = sweep.ledger.read_bytes()
    sweep.ledger.write_bytes(whole[: whole.rindex(b"\n", 0, len(whole) - 1) + 40])
    lines = whole.count(b"\n")
    sweep.ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[: lines - 2]) + b'{"cell": "torn')
    run(tmp_path, lambda spec, _: finish(spec))
    rows = [(row["cell"], row["eval_set"]) for row in ledger.read(sweep.ledger)]
    assert rows == [(c.id, name) for c in cells() for name in ("held_out", "other")]


def test_a_preempted_cell_is_started_again(tmp_path: Path):
    def outcome(spec: JobSpec, starts: int) -> JobStatus:
        if starts == 1:
            RunDir(spec.run_dir).write_status(Status.PREEMPTED)
            return JobStatus(JobState.PREEMPTED, EXIT_PREEMPTED)
        return finish(spec)

    sweep, backend = run(tmp_path, outcome)
    assert sorted(backend.submitted) == sorted([c.id for c in cells()] * 2)
    assert not sweep.stands.failed


def test_a_failed_cell_keeps_its_reason_and_waits_to_be_asked_for(tmp_path: Path):
    broken = cells()[1].id

    def outcome(spec: JobSpec, starts: int) -> JobStatus:
        if spec.name != broken:
            return finish(spec)
        row = {"kind": "train", "step": 2, "loss": 7.5, "core_seconds": 11.0}
        append_json(RunDir(spec.run_dir).metrics, row)
        return JobStatus(JobState.FAILED, 1, reason="rank 1: no memory")

    sweep, _ = run(tmp_path, outcome)
    assert sweep.stands.failed == (broken,)
    assert sweep.why(broken) == "rank 1: no memory"
    row = ledger.latest(sweep.ledger)[broken]
    assert (row["train_loss"], row["core_seconds"], row["cost"]) == (7.5, 11.0, None), "what is lost was paid for"
    again, backend = run(tmp_path, outcome)
    assert backend.submitted == []
    assert again.stands.failed == (broken,) and again.why(broken) == "rank 1: no memory"
    mended, backend = run(tmp_path, lambda spec, _: finish(spec), retry=True)
    assert backend.submitted == [broken]
    assert not mended.stands.failed


def test_a_diverged_cell_is_a_row_and_waits_to_be_asked_for(tmp_path: Path):
    broken = cells()[1].id
    lost = {"train_loss": 6.5, "step": 3, "tokenizer_hash": "t", "data_hash": "d", "unique_tokens": 99}
    lost |= {"gpu_seconds": 12.5, "cost": 0.25, "energy_joules": None}

    def outcome(spec: JobSpec, starts: int) -> JobStatus:
        if spec.name != broken:
            return finish(spec)
        run_dir = RunDir(spec.run_dir)
        append_json(run_dir.metrics, {"kind": "train", "step": 3, "loss": 6.5, "gpu_seconds": 11.0, "cost": 0.2})
        run_dir.record_event("diverged", error="loss nan after step 3", **lost)
        run_dir.write_status(Status.DIVERGED)
        return JobStatus(JobState.FAILED, 76)

    sweep, _ = run(tmp_path, outcome)
    assert not sweep.stands.failed and sweep.stands.diverged == (broken,)
    (row,) = [row for row in ledger.read(sweep.ledger) if row["cell"] == broken]
    assert {key: row[key] for key in lost} == lost
    assert (row["status"], row["loss"], row["reason"]) == ("diverged", None, "loss nan after step 3")
    assert row["tokens"] == 3 * row["tokens_per_step"] and row["params_total"] > 0
    before = sweep.ledger.read_bytes()
    again, backend = run(tmp_path, outcome)
    assert backend.submitted == [] and again.ledger.read_bytes() == before, "said once"
    mended, backend = run(tmp_path, lambda spec, _: finish(spec), retry=True)
    assert backend.submitted == [broken] and not mended.stands.diverged
    assert ledger.latest(sweep.ledger)[broken]["status"] == "done"


def test_a_rank_without_a_last_word_gets_one_from_its_launcher(tmp_path: Path):
    codes = dict(zip([c.id for c in cells()], (76, -9, 77), strict=True))

    def outcome(spec: JobSpec, starts: int) -> JobStatus:
        RunDir(spec.run_dir).write_status(Status.RUNNING)
        return JobStatus(JobState.FAILED, codes[spec.name], reason="ended")

    sweep, _ = run(tmp_path, outcome)
    said = [p.run_dir.read_status() for p in sweep.cells]
    assert said == [Status.DIVERGED, Status.FAILED, Status.RUNNING], "one that was replaced is left alone"
    assert [row["status"] for row in ledger.read(sweep.ledger)] == ["diverged", "failed"]


def test_a_damaged_result_is_taken_for_none_and_evaluated_again(tmp_path: Path):
    sweep, _ = run(tmp_path, lambda spec, _: finish(spec))
    sweep.ledger.unlink()
    first, second, _ = sweep.cells
    first.run_dir.result.write_text('{"step": 10, "evaluations": [{"loss": "x"}]}')
    second.run_dir.plan.write_text('{"name": 3')
    again, backend = run(tmp_path, lambda spec, _: finish(spec))
    assert backend.submitted == [first.id]
    assert {row["status"] for row in ledger.read(again.ledger)} == {"done"}


def test_a_result_no_better_than_chance_is_said_in_its_row(tmp_path: Path):
    sweep, _ = run(tmp_path, lambda spec, _: finish(spec))
    assert {row["reason"] for row in ledger.read(sweep.ledger)} == {""}
    sweep.ledger.unlink()
    run_dir = sweep.cells[0].run_dir
    write_atomically(run_dir.result, json.dumps({**RESULT, "evaluations": [{**EVALUATION, "loss": 6.5}]}))
    run(tmp_path, lambda spec, _: finish(spec))
    assert "no better than chance: loss 6.5" in ledger.latest(sweep.ledger)[sweep.cells[0].id]["reason"]


def test_chance_is_the_unigram_entropy_that_the_run_tells(tmp_path: Path):
    sweep, _ = run(tmp_path, lambda spec, _: finish(spec))
    sweep.ledger.unlink()
    evaluated = [{**EVALUATION, "loss": 5.1}]
    write_atomically(
        sweep.cells[0].run_dir.result, json.dumps({**RESULT, "unigram_entropy": 5.0, "evaluations": evaluated})
    )
    run(tmp_path, lambda spec, _: finish(spec))
    row = ledger.latest(sweep.ledger)[sweep.cells[0].cell.id]
    assert "no better than chance: loss 5.1, and the unigram entropy" in row["reason"]
    assert row["unigram_entropy"] == 5.0


def test_a_ledger_row_counts_by_every_convention(tmp_path: Path):
    sweep, _ = run(tmp_path, lambda spec, _: finish(spec))
    row = next(iter(ledger.read(sweep.ledger)))
    assert row["flops_6nd_total"] == pytest.approx(6 * row["params_total"] * 10240)
    assert row["flops_6nd_head"] - row["flops_6nd_body"] == pytest.approx(6 * 512 * row["d_model"] * 10240)
    assert row["params_total"] == row["params_body"] + row["params_embedding"]


def test_a_sweep_remembers_the_hosts_that_it_was_driven_on_last(tmp_path: Path):
    def broken(spec: JobSpec, starts: int) -> JobStatus:
        return JobStatus(JobState.FAILED, 1, reason="no memory")

    drive(tmp_path, cells(), broken, cluster="hosts.yaml")
    assert recorded_cluster(tmp_path) == str(Path("hosts.yaml").absolute())
    drive(tmp_path, cells(), broken)
    assert recorded_cluster(tmp_path) == str(Path("hosts.yaml").absolute()), "nothing was started here"
    drive(tmp_path, cells(), broken, retry=True)
    assert recorded_cluster(tmp_path) is None


def test_a_cell_that_gives_up_its_machine_for_good_is_a_failure(tmp_path: Path):
    def outcome(spec: JobSpec, starts: int) -> JobStatus:
        RunDir(spec.run_dir).write_status(Status.PREEMPTED)
        return JobStatus(JobState.PREEMPTED, EXIT_PREEMPTED, reason="saved and stopped")

    sweep, backend = run(tmp_path, outcome)
    assert backend.submitted == [c.id for c in cells()] * 3
    assert sweep.stands.failed == tuple(c.id for c in cells()) and not list(ledger.read(sweep.ledger))
