"""What a batch script printed: where a job says why it ended before its ranks could."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from trainer.node.failure import tail

# What Slurm's programs add about every step that ends with an error, whatever that was.
_NOISE = re.compile(
    r"srun: (error: .*(Exited with|Terminated|Killed|task \d+:|tasks? .*: )|Terminating|Job step aborted|launch/)"
    r"|^(starting job|attempt \d+ of job) |Job step \S+ CANCELLED|STEP \S+ ON .* CANCELLED"
)
_SAYS_WHY = re.compile(
    r"error|fail|no such|denied|not found|cannot|no space|quota|killed|oom|read-only|time limit|traceback", re.I
)
START = "\nstarting job "  # before each start of the ranks


def batch_output(job: str, run_dir: Path, output: str) -> Path | None:
    """Return the file that a job's batch script writes, or None where there is none (yet)."""
    places = [Path(output)] if output else []
    places += [run_dir, run_dir.parent.parent]  # a cell's: its sweep's directory
    return next((path for place in places if (path := place / f"slurm-{job}.out").is_file()), None)


def reason_in(path: Path) -> str:
    """Return the line that says why the newest start of a batch script failed, "" for an empty file."""
    text = tail(path)
    newest = text.rpartition(START)[2] if START in text else text
    lines = [line.strip() for line in newest.splitlines() if line.strip() and not _NOISE.search(line)]
    named = [line for line in lines if _SAYS_WHY.search(line)]
    return (named or lines or [""])[-1][:500]


def lines_of(path: Path) -> Iterator[str]:
    """Yield the lines of a batch script's output."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            yield line.rstrip("\n")
