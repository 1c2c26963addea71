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
from trainer.node.failure import says_port_taken, signal_name
from trainer.node.names import own_name

# What gloo, NCCL and torch's store say when a peer has gone or does not answer.
_CONSEQUENCE = re.compile(
    r"connection (?:was )?(?:reset|closed|refused|aborted)|broken pipe|socket closed|closed by peer"
    r"|remote process exited|ncclRemoteError|timed out waiting|watchdog caught collective|monitored ?barrier"
    r"|operations have failed or timed out|Dist(?:Network|Store)Error|recvValue failed|sendBytes failed"
    r"|connectFullMesh|wait timeout|client socket|socket timeout|Rendezvous\w*Error|application timeout",
    re.I,
)


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
        _write(self, logs / f"failure_{socket.gethostname()}_{self.rank}.json")

    def __str__(self) -> str:
        name = signal_name(self.code) if self.code < 0 else None
        how = f"signal {name}" if name else f"exit code {self.code}"
        return f"rank {self.rank} on {self.host} ended first, with {how}: {self.message}"


def blame_node(logs: Path, code: int, message: str) -> None:
    """Leave a failure of this node itself, not of one of its ranks, where `escala jobs` and other agents look for it.

    Agents of several nodes on one host may have one name: the process tells them apart.
    """
    ending = Ending(-1, own_name(), code, time.time(), message)
    _write(ending, logs / f"failure_{ending.host}_{os.getpid()}.json")
    print(f"error: {message}", flush=True)


def _write(ending: Ending, path: Path) -> None:
    row = {**asdict(ending), "signal": signal_name(ending.code) if ending.code < 0 else None}
    write_atomically(path, json.dumps(row) + "\n")


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
