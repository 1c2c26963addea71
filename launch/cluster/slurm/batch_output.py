"""What a batch script printed: where a job says why it ended before its ranks could."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from trainer.contract.attempts import attempts
from trainer.contract.run_dir import RunDir
from trainer.node.failure import tail

# What Slurm's programs add about every step that ends with an error, whatever that was.
_NOISE = re.compile(
    r"srun: (error: .*(Exited with|Terminated|Killed|task \d+:|tasks? .*: )|Terminating|Job step aborted|launch/)"
    r"|^attempt \d+ of job |Job step \S+ CANCELLED|STEP \S+ ON .* CANCELLED"
)
_SAYS_WHY = re.compile(
    r"error|fail|no such|denied|not found|cannot|no space|quota|killed|oom|read-only|time limit|traceback", re.I
)
JOB = "job"  # in an attempt's log directory: the id of the job that made it


def batch_output(job: str, run_dir: Path, output: str) -> Path | None:
    """Return the file that a job's batch script writes, or None where there is none (yet)."""
    places = [Path(output)] if output else []
    places += [run_dir, run_dir.parent.parent]  # a cell's: its sweep's directory
    return next((path for place in places if (path := place / f"slurm-{job}.out").is_file()), None)


def reason_in(path: Path) -> str:
    """Return the line that says why the newest start of a batch script failed, "" for an empty file."""
    text = tail(path)
    newest = text.rpartition("\nattempt ")[2] if "\nattempt " in text else text
    lines = [line.strip() for line in newest.splitlines() if line.strip() and not _NOISE.search(line)]
    named = [line for line in lines if _SAYS_WHY.search(line)]
    return (named or lines or [""])[-1][:500]


def attempts_of(run_dir: Path, job: str) -> list[int]:
    """Return the attempts that a job made; those of an older submission are not among them."""
    found = []
    for attempt in attempts(run_dir):
        mark = RunDir(run_dir).logs(attempt) / JOB
        if mark.is_file() and mark.read_text(encoding="utf-8").strip() == job:
            found.append(attempt)
    return found


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a batch script's output."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            yield line.rstrip("\n")
