"""Log files of a run directory: logs/<attempt>/rank_<r>.log. Find the newest attempt, print it, follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from launch.cluster.driven import told
from launch.cluster.job import JobState, RankFailure
from launch.cluster.registry import read
from trainer.contract.attempts import attempts
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir
from trainer.node.failure import signal_name
from trainer.node.first_failure import Ending, recorded_failure


def newest_logs(run_dir: Path) -> Path:
    """Return the log directory of the newest attempt. Raises UserError when nothing was started."""
    known = attempts(run_dir)
    if not known:
        raise UserError(f"no logs under {run_dir}: {_driver_reason(run_dir, 0) or 'nothing was started there yet'}")
    return RunDir(run_dir).logs(known[-1])


def rank_logs(log_dir: Path) -> dict[int, Path]:
    """Return the log file of each rank."""
    found = {p.stem.removeprefix("rank_"): p for p in log_dir.glob("rank_*.log")}
    return {int(rank): path for rank, path in sorted(found.items(), key=lambda item: int(item[0]))}


def attempt_logs(log_dir: Path, rank: int | None) -> Iterator[str]:
    """Yield the lines of one rank, or of all ranks with `[rank] ` in front; of a failed attempt also why it failed."""
    files = rank_logs(log_dir)
    if not files:
        yield from _agent_logs(log_dir)
    elif rank is not None and rank not in files:
        raise UserError(f"no log of rank {rank} in {log_dir} (there are {len(files)} ranks: {_shown(list(files))})")
    for number, path in files.items():
        if rank in (None, number):
            with path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    yield _labelled(line.rstrip("\n"), number, rank)
    yield from verdict(log_dir)


def follow_logs(
    log_dir: Callable[[], Path],
    rank: int | None,
    ended: Callable[[], bool],
    pause: Callable[[], None],
    said: Callable[[], list[str]] = list,
    offsets: dict[Path, int] | None = None,
) -> Iterator[str]:
    """Yield lines as they are written, until the job has ended and everything it wrote was read.

    `said` returns what the backend itself has to tell since it was last asked. `offsets`, of each file in bytes, says
    what was yielded before: who follows again with the same mapping goes on where it was interrupted.
    """
    offsets = {} if offsets is None else offsets
    while True:
        last_round = ended()  # asked before reading: what was written before the end is still read
        for number, path in rank_logs(log_dir()).items():
            if rank in (None, number):
                lines, offsets[path] = _new_lines(path, offsets.get(path, 0), whole=not last_round)
                yield from (_labelled(line, number, rank) for line in lines)
        yield from said()
        if last_round:
            yield from verdict(log_dir())
            return
        pause()


def verdict(log_dir: Path) -> list[str]:
    """Return one line that says why an attempt failed, and where; nothing where it did not or nobody knows."""
    attempt = int(log_dir.name) if log_dir.name.isdigit() else 0
    why = _driver_reason(log_dir.parent.parent, attempt) or first_failure(log_dir)
    return [f"failed: {why}"] if why else []


def _driver_reason(run_dir: Path, attempt: int) -> str:
    """Return why an attempt failed as its driver said it; "" where none did, or the run has another job since."""
    last, row = told(run_dir), read(run_dir)
    if last is None or last.attempt != attempt or last.status.state is not JobState.FAILED:
        return ""
    return last.status.reason if row is None or row.job == last.driver else ""


def _agent_logs(log_dir: Path) -> Iterator[str]:
    """Yield what torchrun printed on each host, where no rank came so far as to have a log."""
    for path in sorted(log_dir.glob("torchrun_*.log")):
        host = path.stem.removeprefix("torchrun_").rpartition("_")[0]
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            yield f"[{host}] {line}"


def _new_lines(path: Path, offset: int, *, whole: bool) -> tuple[list[str], int]:
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    if whole:  # a line that is still being written waits for its end
        data = data[: data.rfind(b"\n") + 1]
    return data.decode("utf-8", "replace").splitlines(), offset + len(data)


def _labelled(line: str, number: int, wanted: int | None) -> str:
    return line if wanted is not None else f"[{number}] {line}"


def _shown(ranks: list[int]) -> str:
    return "none" if not ranks else f"{ranks[0]} to {ranks[-1]}"


def first_failure(log_dir: Path) -> RankFailure | None:
    """Return the failure that began it, of those that were recorded in an attempt's directory, or None."""
    found = recorded_failure(log_dir)
    return None if found is None else rank_failure(found)


def rank_failure(ending: Ending) -> RankFailure:
    """Return a rank's end as a job's status holds it."""
    name = signal_name(ending.code) if ending.code < 0 else None
    return RankFailure(ending.rank, ending.host, ending.code, name, ending.message)
