"""What the agent of a node is asked to run: its command line, and the attempt that it belongs to."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from trainer.contract.attempts import Claim
from trainer.contract.run_dir import RunDir
from trainer.node.claiming import claim_or_refuse, find_claim


@dataclass(frozen=True)
class Node:
    """One node's share of an attempt."""

    run_dir: Path
    claim: Claim
    nodes: int
    ranks: int
    rendezvous: str
    identity: str
    is_host: bool
    restarts: int
    grace: float
    join_timeout: int
    command: tuple[str, ...]
    names: tuple[str, ...] = ()
    interface: str | None = None
    echo: bool = False

    @property
    def attempt(self) -> int:
        """Return the number of the claimed attempt."""
        return self.claim.attempt

    @property
    def logs(self) -> Path:
        """Return the directory of the attempt's logs."""
        return RunDir(self.run_dir).logs(self.attempt)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line. Ends the process with code 2 where it is wrong."""
    parser = argparse.ArgumentParser(prog="trainer.node.agent", description="Run one node's ranks of a job.")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--attempt", type=int, help="claimed by the driver; default: the first node claims the next")
    parser.add_argument("--job", default="", help="what starts this run repeatedly, such as a scheduler's job")
    parser.add_argument("--repeat", type=int, default=0, help="how often that job was started before")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1, help="ranks on this node")
    parser.add_argument("--rendezvous", default="127.0.0.1:29400", help="HOST:PORT of the first node")
    parser.add_argument("--id", default="escala", help="the same on all nodes of one start, and on no others")
    parser.add_argument("--host", action="store_true", help="this is the first node (Slurm and Kubernetes say so)")
    parser.add_argument("--restarts", type=int, default=0, help="how often failed ranks are started again in place")
    parser.add_argument("--grace", type=float, default=60.0, help="seconds that ranks get to save after SIGTERM")
    parser.add_argument("--join-timeout", type=int, default=600, help="seconds to wait for the other nodes")
    parser.add_argument("--names", default="", help="A,B,...: all nodes as people know them, to say which is missing")
    parser.add_argument("--echo", action="store_true", help="print what this node's ranks print, with [RANK] in front")
    parser.add_argument(
        "--interface",
        default=os.environ.get("ESCALA_INTERFACE"),
        help="network interface on which nodes meet, such as ib0; default: $ESCALA_INTERFACE, else one that all reach",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- PROGRAM ARGS of one rank")
    read = parser.parse_args(arguments)
    read.command = tuple(read.command[1:] if read.command[:1] == ["--"] else read.command)
    if not read.command:
        parser.error("the program of a rank is missing: ... -- -m trainer.train --run-dir DIR")
    first = "0" in (os.environ.get("SLURM_NODEID"), os.environ.get("JOB_COMPLETION_INDEX"))
    read.host = read.host or read.nodes == 1 or first
    return read


def node_of(a: argparse.Namespace) -> Node | int:
    """Return this node's share once its attempt is claimed; the exit code where that must not begin.

    Raises UserError where the first node's claim does not appear, `OSError` where the run directory cannot be written.
    """
    claim: Claim | int
    if a.host and a.attempt is None:
        claim = claim_or_refuse(a.run_dir, a.job, a.repeat, a.id)
    else:
        claim = find_claim(a.run_dir, a.id, a.attempt, a.join_timeout)
    if isinstance(claim, int):
        return claim
    return Node(
        *(a.run_dir, claim, a.nodes, a.ranks, a.rendezvous, a.id, a.host, a.restarts, a.grace, a.join_timeout),
        command=a.command,
        names=tuple(name for name in a.names.split(",") if name),
        interface=a.interface or None,
        echo=a.echo,
    )
