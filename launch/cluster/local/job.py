"""A job of this machine and what is known about it now."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.cluster.job import JobSpec, JobState, JobStatus
from trainer.contract.attempts import Claim
from trainer.node.first_failure import Ending


@dataclass
class LocalJob:
    """`identity` names it in its backend. Times are those of the backend's clock."""

    identity: str
    spec: JobSpec
    status: JobStatus = field(default_factory=lambda: JobStatus(JobState.PENDING))
    claim: Claim = field(default_factory=lambda: Claim(0))  # of its newest attempt
    log_dir: Path = Path()
    running: set[int] = field(default_factory=set)
    endings: list[Ending] = field(default_factory=list)
    told: bool = False  # its ranks have been asked to end
    oom_kills: int | None = None  # of this control group, when it started
    kill_at: float | None = None
    limit_at: float | None = None
    timed_out: bool = False
    cancelled: bool = False
    port_tries: int = 0
    failures: int = 0
    stands_still: str = ""  # why it is not started again although it may fail more often
    devices: tuple[str, ...] = ()
    offsets: dict[int | None, dict[Path, int]] = field(default_factory=dict)  # of the logs that were followed, by rank

    def log_of(self, rank: int) -> Path:
        """Return the log of a rank of the newest attempt."""
        return self.log_dir / f"rank_{rank}.log"
