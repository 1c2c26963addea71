"""Attempts of a run: each start claims the next number by making logs/<number>, so that two never have the same one.

Whoever starts a run leaves `claim.json` there: on behalf of which job, and at which checkpoint the attempt begins.
Schedulers start a job again when it was preempted, ran out of time or lost a node. From these claims anybody can tell
whether that still leads anywhere: a start that begins where two earlier ones of its job began is the last.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.contract.run_dir import RunDir, write_atomically

CLAIM = "claim.json"
MOST_STARTS = 3  # of one job from one checkpoint


@dataclass(frozen=True)
class Claim:
    """One attempt, as whoever claimed it wrote it down."""

    attempt: int
    job: str = ""  # a scheduler's job or a driver's process, which may start the run repeatedly; "" where none does
    repeat: int = 0  # how often that job was started before
    start: str = ""  # the same on all nodes of this start, and on no other
    checkpoint: str = ""  # the newest one at that time; "" where there was none


def attempts(run_dir: Path) -> list[int]:
    """Return the attempts that left logs, in order."""
    logs = run_dir / "logs"
    if not logs.is_dir():
        return []
    return sorted(int(entry.name) for entry in logs.iterdir() if entry.name.isdigit())


def newest_attempt(run_dir: Path) -> int:
    """Return the number of the newest attempt that has a log directory; 0 where there is none or it cannot be seen."""
    with contextlib.suppress(OSError):  # a shared filesystem that is away for a moment says nothing about attempts
        return max(attempts(run_dir), default=0)
    return 0


def claim_attempt(run_dir: Path, job: str = "", *, repeat: int = 0, start: str = "") -> Claim:
    """Claim the next attempt and make its log directory. An older one that still runs sees that and ends.

    Raises `OSError` that names the file.
    """
    attempt = newest_attempt(run_dir) + 1
    while True:
        logs = RunDir(run_dir).logs(attempt)
        try:
            logs.mkdir(parents=True)
        except FileExistsError:
            attempt += 1
        else:
            claim = Claim(attempt, job, repeat, start, _newest_checkpoint(run_dir))
            write_atomically(logs / CLAIM, json.dumps(asdict(claim)) + "\n")
            return claim


def claim_of(run_dir: Path, attempt: int) -> Claim | None:
    """Return the claim of an attempt; None where there is none (yet), or it cannot be read."""
    try:
        row = json.loads((RunDir(run_dir).logs(attempt) / CLAIM).read_text(encoding="utf-8"))
        return Claim(attempt, str(row["job"]), int(row["repeat"]), str(row["start"]), str(row["checkpoint"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def attempts_of(run_dir: Path, job: str) -> list[int]:
    """Return the attempts that a job made, in order; those of other submissions are not among them."""
    return [claim.attempt for claim in _claims(run_dir) if claim.job == job]


def seconds_before(run_dir: Path, attempt: int) -> float:
    """Return how long the attempts before this one lasted, from their claims to the last output of their first ranks.

    One that left no output counts as nothing.
    """
    return sum(_seconds(RunDir(run_dir).logs(one)) for one in attempts(run_dir) if one < attempt)


def _seconds(logs: Path) -> float:
    try:
        return max(0.0, (logs / "rank_0.log").stat().st_mtime - (logs / CLAIM).stat().st_mtime)
    except OSError:
        return 0.0


def starts_in_vain(run_dir: Path, claim: Claim) -> int:
    """Return how many starts of a claim's job, that one included, began at what is still the newest checkpoint.

    The tries of one start, each with another port, count once. Claims of a start that comes later by its own number are
    those of an older job which had the same id.
    """
    here = _newest_checkpoint(run_dir)
    if not claim.job or claim.checkpoint != here:
        return 0
    own = [one for one in _claims(run_dir) if one.job == claim.job and one.checkpoint == here]
    return len({one.repeat for one in own if one.repeat <= claim.repeat})


def standstill(run_dir: Path, claim: Claim, *, ended: bool) -> str:
    """Return why a job that stands still is not started again, "" while it advances.

    With `ended`, whether the attempt of this claim was the last that may begin here; else whether it is one too many.
    """
    if starts_in_vain(run_dir, claim) < MOST_STARTS + (not ended):
        return ""
    return (
        f"{MOST_STARTS} attempts in a row began at {claim.checkpoint or 'the first step'} and saved nothing newer: "
        f"stopped. If starting and saving need more time than they get, ask for more or save more often; "
        f"{run_dir / 'logs'} says how they ended"
    )


def _claims(run_dir: Path) -> list[Claim]:
    return [claim for attempt in attempts(run_dir) if (claim := claim_of(run_dir, attempt)) is not None]


def _newest_checkpoint(run_dir: Path) -> str:
    """Return the word in `latest`, "" where there is none."""
    try:
        return RunDir(run_dir).latest.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
