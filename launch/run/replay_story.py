"""The story of a replay: the ranks of a run once more, on this machine, for one step of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from launch.cluster.config import LOCAL, open_driver
from launch.cluster.job import JobSpec, JobState
from launch.run.rank_packages import need_rank_packages
from trainer.contract.errors import EndedBadlyError, UserError
from trainer.contract.exit_codes import EXIT_FAILED
from trainer.contract.plain_json import DamagedFileError, read_object, rows_of
from trainer.contract.run_dir import RunDir

PLACE = "replays"


def replay(run: Path, step: int) -> list[str]:
    """Take one step of a run again, 0 for the last that was not finite, and return what came out as lines.

    Needs as many ranks here as the run had. Writes into `replays/step_<n>` of the run alone. Raises `UserError`.
    """
    run_dir = RunDir(run)
    number = step or _last_not_finite(run_dir)
    try:
        world = int(read_object(run_dir.plan, "world")["world"])
    except (FileNotFoundError, DamagedFileError, TypeError, ValueError):
        raise UserError(f"{run_dir.plan} does not say how many ranks the run had: nothing was trained yet") from None
    need_rank_packages()
    scratch = RunDir(run.resolve() / PLACE / f"step_{number:09d}")
    shutil.rmtree(scratch.root, ignore_errors=True)
    scratch.root.mkdir(parents=True)
    words = ("--of", str(run.resolve()), "--run-dir", str(scratch.root), "--step", str(number))
    with open_driver(LOCAL.model_copy(update={"ranks_per_node": world})) as backend:
        job = backend.submit(
            JobSpec(f"replay of {run.name}", ("-m", "trainer.replay", *words), scratch.root, ranks_per_node=world)
        )
        for _ in backend.logs(job, rank=0, follow=True):
            pass
        ended = backend.status([job])[job]
    if ended.state is not JobState.DONE:
        raise EndedBadlyError(f"the replay failed: {ended.reason}. Logs: {scratch.root / 'logs'}", EXIT_FAILED)
    row = next(row for row in rows_of(scratch.events, "event") if row["event"] == "replayed")
    begin = f"the checkpoint of step {row['from_step']}" if row["from_step"] else "the first step"
    way = f"{row['same_losses']} recorded losses on the way are the same, {row['other_losses']} are not"
    return [f"step {number}, taken again from {begin}: {row['says']}", way]


def _last_not_finite(run_dir: RunDir) -> int:
    found = [row["step"] for row in rows_of(run_dir.events, "event", "step") if row["event"] == "step_skipped"]
    if not found:
        raise UserError(
            f"no step of {run_dir.root} was skipped for its numbers: say which to take again, --replay STEP"
        )
    return int(found[-1])
