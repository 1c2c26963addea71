"""Which rank failed first. One rank's end breaks its peers' connections, and they end with errors of their own.

The order of the ends tells little: a rank that is killed leaves no record, and its peers' errors arrive before anybody
has noticed. So causes come before consequences, and only within each is it the time that counts.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.contract.exit_codes import EXIT_PREEMPTED
from trainer.contract.run_dir import write_atomically
from trainer.node.failure import says_port_taken, signal_name, tail

# What gloo, NCCL and torch's store say when a peer has gone or does not answer.
_CONSEQUENCE = re.compile(
    r"connection (?:was )?(?:reset|closed|refused|aborted)|broken pipe|socket closed|closed by peer"
    r"|remote process exited|ncclRemoteError|timed out waiting|watchdog caught collective|monitored ?barrier"
    r"|operations have failed or timed out|Dist(?:Network|Store)Error|recvValue failed|sendBytes failed"
    r"|connectFullMesh|wait timeout|client socket|socket timeout|Rendezvous\w*Error|application timeout",
    re.I,
)
_SUMMARY = re.compile(r"^\s*time\s+: (\S+)\n(?:.*\n)*?\s*rank\s+: (\d+) .*\n\s*exitcode\s+: (-?\d+)", re.M)


@dataclass(frozen=True)
class Ending:
    """How one rank ended, with a code as `subprocess` reports it: negative for a signal."""

    rank: int
    host: str
    code: int
    time: float  # seconds since the epoch, by the clock of `host`
    message: str = ""  # why, as far as its log says
    told: bool = False  # it had been asked to end before it did

    @property
    def severity(self) -> int:
        """Return 0 for what may have begun it, more for what follows from other ranks' ends."""
        if self.code == EXIT_PREEMPTED:
            return 3
        if self.told and signal_name(self.code) in ("SIGTERM", "SIGKILL"):
            return 2
        return int(is_consequence(self.message))

    def write(self, logs: Path) -> None:
        """Leave `failure_<host>_<rank>.json` in an attempt's log directory: the rank that this machine blames.

        Agents of several nodes on one host, as in containers, blame different ranks: none overwrites the other. An
        agent that failed itself blames rank -1, and its process tells it apart.
        """
        who = str(self.rank) if self.rank >= 0 else f"agent_{os.getpid()}"
        row = {**asdict(self), "signal": signal_name(self.code) if self.code < 0 else None}
        write_atomically(logs / f"failure_{self.host}_{who}.json", json.dumps(row) + "\n")

    def __str__(self) -> str:
        name = signal_name(self.code) if self.code < 0 else None
        how = f"signal {name}" if name else f"exit code {self.code}"
        return f"rank {self.rank} on {self.host} ended first, with {how}: {self.message}"


def is_consequence(message: str) -> bool:
    """Tell whether an error is what a rank says when another one has gone or does not answer."""
    return _CONSEQUENCE.search(message) is not None and not says_port_taken(message)  # a DistNetworkError too


def first_failure(endings: Iterable[Ending]) -> Ending | None:
    """Return the rank that began it among those that ended with a code other than 0, or None where all ended well."""
    bad = [ending for ending in endings if ending.code != 0]
    return min(bad, key=lambda e: (e.severity, e.time, e.rank), default=None)


def recorded_failure(logs: Path) -> Ending | None:
    """Return the first of the failures that machines have left in an attempt's log directory, or None.

    A record that cannot be read, such as an empty one of a full disk, hides no other.
    """
    known, found = Ending.__dataclass_fields__, []
    for path in logs.glob("failure_*.json"):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            found.append(Ending(**{name: value for name, value in row.items() if name in known}))
        except (OSError, ValueError, TypeError, AttributeError):
            continue
    return first_failure(found)


def torchrun_endings(own_log: Path) -> list[Ending]:
    """Return the ranks of this machine whose ends torchrun's summary lists: killed ones leave no other record."""
    _, found, summary = tail(own_log).rpartition("\nFailures:")
    rows = _SUMMARY.findall(summary) if found else []
    return [Ending(int(rank), socket.gethostname(), int(code), _seconds(when)) for when, rank, code in rows]


def _seconds(text: str) -> float:
    """Read torchrun's local time, which has whole seconds: a rank's own record of the same second is earlier."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%d_%H:%M:%S")) + 1
    except ValueError:
        return time.time()
