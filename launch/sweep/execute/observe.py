"""What is known about the cells of a sweep, from run directories, jobs and trunks' checkpoints. Only reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from launch.cluster import registry
from launch.cluster.backends import is_driven
from launch.cluster.job import JobStatus
from launch.cluster.overview import statuses_of
from launch.cluster.registry import Submitted
from launch.run.run_state import last_word
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.execute.decide import Seen
from launch.sweep.ledger.collect import result_problem
from trainer.contract.run_dir import RunDir, Status


@dataclass(frozen=True)
class Past:
    """What this process knows of its own doing."""

    jobs: Mapping[str, JobStatus] = field(default_factory=dict)  # of the newest job of each cell that has one
    starts: Mapping[str, int] = field(default_factory=dict)
    collected: Set[str] = frozenset()  # the ledger was told how these ended
    recorded: Set[str] = frozenset()  # it said before that these are done


def observe(cells: Sequence[PlannedCell], past: Past) -> list[Seen]:
    """Return one look at every cell of a sweep."""
    return [_look(one, past) for one in cells]


def _look(one: PlannedCell, past: Past) -> Seen:
    status, job = one.run_dir.read_status(), past.jobs.get(one.id)
    told = one.id in past.collected or (status is Status.DONE and one.id in past.recorded)
    collected = told or one.cell.check_of is not None  # checks have no row in the ledger
    return Seen(
        one.id,
        status,
        job,
        starts=past.starts.get(one.id, 0),
        unsaid=None if job is None else last_word(one.run_dir, job),
        unreadable=status is Status.DONE and not collected and result_problem(one.run_dir) is not None,
        collected=collected,
        trunk=None if one.cell.branch is None else one.cell.branch.trunk,
        parted=one.branch_point is not None,
    )


def scheduled(run_dirs: Sequence[RunDir]) -> dict[RunDir, tuple[Submitted, JobStatus]]:
    """Return the job and its state for each run that a scheduler was given and that has not ended. Asks it once."""
    going = [d for d in run_dirs if d.read_status() not in (Status.DONE, Status.DIVERGED)]
    rows = {d: row for d in going if (row := registry.read(d.root)) and not is_driven(row.backend)}
    if not rows:
        return {}
    found = statuses_of(list(rows.values()))
    return {run_dir: (row, found[row.run_dir]) for run_dir, row in rows.items()}
