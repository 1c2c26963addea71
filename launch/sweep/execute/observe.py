"""What is known about the cells of a sweep, from run directories, jobs and trunks' checkpoints. Only reads."""

from __future__ import annotations

from collections.abc import Sequence

from launch.cluster import registry
from launch.cluster.backends import is_driven
from launch.cluster.job import JobStatus
from launch.cluster.overview import statuses_of
from launch.cluster.registry import Submitted
from launch.run.run_state import last_word
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.execute.decide import Seen
from launch.sweep.execute.underway import Underway
from launch.sweep.ledger import ledger
from launch.sweep.ledger.collect import result_problem
from trainer.contract.run_dir import RunDir, Status


def observe(sweep: Underway) -> list[Seen]:
    """Return one look at every cell. Schedulers and the ledger are asked once, a driver of this process each time."""
    if sweep.jobs is None:
        jobs = scheduled([one.run_dir for one in sweep.cells])
        sweep.jobs = {one.id: jobs[one.run_dir][1] for one in sweep.cells if one.run_dir in jobs}
        rows = ledger.latest(sweep.ledger)
        sweep.recorded = frozenset(cell for cell, row in rows.items() if row.get("status") == "done")
    known = sweep.jobs
    if going := {job: cell for cell, job in sweep.ids.items() if cell not in known or not known[cell].state.final}:
        known |= {going[job]: status for job, status in sweep.place.backend.status(list(going)).items()}
    return [_look(one, sweep, known.get(one.id)) for one in sweep.cells]


def _look(one: PlannedCell, sweep: Underway, job: JobStatus | None) -> Seen:
    status, idle = one.run_dir.read_status(), job is None or job.state.final
    told = one.id in sweep.collected or (status is Status.DONE and one.id in sweep.recorded)
    collected = told or one.cell.check_of is not None  # a check has no row
    unsaid = None if job is None else last_word(one.run_dir, job)
    if status is Status.DONE and idle and not collected and result_problem(one.run_dir):
        unsaid = Status.PENDING
    trunk = None if one.cell.branch is None else one.cell.branch.trunk
    parted = status is not Status.DONE and idle and one.branch_point is not None  # where nobody asks, nothing is read
    return Seen(one.id, status, job, sweep.starts[one.id], unsaid, collected, trunk, parted)


def scheduled(run_dirs: Sequence[RunDir]) -> dict[RunDir, tuple[Submitted, JobStatus]]:
    """Return the job and its state for each run that a scheduler was given and that has not ended. Asks it once."""
    going = [d for d in run_dirs if d.read_status() not in (Status.DONE, Status.DIVERGED)]
    rows = {d: row for d in going if (row := registry.read(d.root)) and not is_driven(row.backend)}
    found = statuses_of(list(rows.values()))
    return {run_dir: (row, found[row.run_dir]) for run_dir, row in rows.items()}
