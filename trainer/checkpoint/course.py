"""The course of a run: which of its checkpoints still count when it begins, and how much progress was lost.

The first rank alone works here, after a checkpoint was loaded and before anything is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.manifest import checkpoint_name, list_checkpoints, step_of
from trainer.checkpoint.retention import ABANDONED, DAMAGED, Misplaced, misplaced, set_aside
from trainer.checkpoint.search import Passed
from trainer.contract.errors import UserError
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import RunDir, write_atomically
from trainer.guard.fence import Fence


@dataclass(frozen=True)
class Course:
    """Where a run goes on: after `step` steps, on a trajectory, from a checkpoint or (None) from the beginning.

    `left` names checkpoints that are sound, but have read data which the run now leaves out.
    """

    run_dir: RunDir
    step: int
    trajectory: str
    checkpoint: Path | None
    left: frozenset[str] = frozenset()


def put_in_order(course: Course, passed: Sequence[Passed], fence: Fence) -> dict[str, object]:
    """Set aside the run's checkpoints that do not belong to its course, and return what to record and say.

    Returns `trajectory`, `passed_over` and `lost_steps` as the event has them, `set_aside` with one row for each, and
    `lines` for the console. Raises `UserError` where a checkpoint cannot be moved: the next start would resume from it.
    """
    fence.check()
    gone = _missing_newest(course)
    passed = [*gone, *passed]
    lost = max(0, _furthest(course, passed) - course.step)
    moved = [_move(found) for found in _misplaced(course, passed)]
    lines = [*_lines(course, passed, lost, moved), *_point_latest(course)]
    return {
        "trajectory": course.trajectory,
        "passed_over": [row.row() for row in passed],
        "lost_steps": lost,
        "set_aside": moved,
        "lines": lines,
    }


def _misplaced(course: Course, passed: Sequence[Passed]) -> list[Misplaced]:
    """Return the run's own checkpoints that do not count, newest first."""
    problems = {row.checkpoint: row.problem for row in passed}
    found = []
    for path in list_checkpoints(course.run_dir.checkpoints):
        if path == course.checkpoint:
            continue
        wrong = misplaced(path, trajectory=course.trajectory, newest=course.step)
        if path.name in problems and (wrong is None or wrong.reason != DAMAGED):
            reason = ABANDONED if path.name in course.left else DAMAGED
            wrong = Misplaced(path, reason, problems[path.name])
        if wrong is None and course.checkpoint is None:
            wrong = Misplaced(path, ABANDONED, "the run began anew")
        if wrong is not None:
            found.append(wrong)
    return found


def _move(found: Misplaced) -> dict[str, str]:
    try:
        target = set_aside(found.checkpoint, found.reason)
    except OSError as error:
        raise UserError(
            f"{found.checkpoint} does not belong to the run any more ({found.problem}) and cannot be set aside: "
            f"{error.strerror or error}. Mend that, or move it away"
        ) from None
    return {"checkpoint": found.checkpoint.name, "to": str(target), "reason": found.reason, "problem": found.problem}


def _latest_step(run_dir: RunDir) -> int:
    """Return the step that `latest` names; 0 where it is missing or damaged, for it is a convenience to readers."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return step_of(Path(run_dir.latest.read_text(encoding="utf-8").strip())) or 0
    return 0


def _missing_newest(course: Course) -> list[Passed]:
    """Return the checkpoint that `latest` names where it is newer than all there are: it was deleted."""
    step = _latest_step(course.run_dir)
    newest = max((step_of(path) or 0 for path in list_checkpoints(course.run_dir.checkpoints)), default=0)
    if step <= max(newest, course.step):
        return []
    return [Passed(checkpoint_name(step), "`latest` names it, but it is not there")]


def _furthest(course: Course, passed: Sequence[Passed]) -> int:
    """Return the most steps that the run, or the source it goes on from, is known to have had."""
    names = [path.name for path in list_checkpoints(course.run_dir.checkpoints)] + [row.checkpoint for row in passed]
    steps = [step for name in names if (step := step_of(Path(name))) is not None]
    if course.checkpoint is None:  # an ordinary interruption loses what came after its newest checkpoint; this is more
        steps += [row["step"] for row in rows_of(course.run_dir.metrics, "step") if isinstance(row["step"], int)]
    return max(steps, default=0)


def _point_latest(course: Course) -> list[str]:
    """Let `latest` name what the run goes on from, or nothing. Returns a line where that is not possible."""
    run_dir = course.run_dir
    own = course.checkpoint is not None and course.checkpoint.parent == run_dir.checkpoints
    try:
        if not own:
            run_dir.latest.unlink(missing_ok=True)
        elif _latest_step(run_dir) != course.step:
            write_atomically(run_dir.latest, checkpoint_name(course.step) + "\n")
    except OSError as error:
        return [f"{run_dir.latest} cannot be written: {error.strerror or error}"]
    return []


def _lines(course: Course, passed: Sequence[Passed], lost: int, moved: Sequence[dict[str, str]]) -> list[str]:
    lines = [f"{row.checkpoint} is passed over: {row.problem}" for row in passed]
    if lost and course.checkpoint is not None:
        lines.append(f"the run goes on from step {course.step}: {lost} steps are trained again")
    elif lost:
        lines.append(f"the run begins anew: the {lost} steps that it had come to are trained again")
    if moved:
        lines.append(
            f"{', '.join(row['checkpoint'] for row in moved)} set aside in {Path(moved[0]['to']).parent} "
            f"(escala checkpoint clean {course.run_dir.root} deletes what lies there)"
        )
    return lines
