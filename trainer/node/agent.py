"""The agent of one node: starts one `torchrun`, passes signals on to the ranks, and says who failed first.

    python -m trainer.node.agent --run-dir DIR --attempt 3 --nodes 2 --ranks 8 --rendezvous HOST:29500 -- PROGRAM...

The same line is started once on every node; PROGRAM is `-m MODULE ARGS` or a file. What `torchrun` alone does not do:

- SIGUSR1 and SIGTERM reach every rank, which may save before it goes; TERM turns into KILL after a grace time.
- Ranks leave in agreement (saved, diverged, user error) without being restarted, and the agent leaves with their code.
- The first failing rank is reported by host, rank, code or signal, and the last line of its traceback.
- Nodes meet at an address that all of them have reached; who does not come is named.
- A rendezvous port that another program holds is told apart (exit code 98), so that the caller tries the next.
- When the agent of another node has reported a failure, the ranks here end too, instead of waiting for a time-out.
- When a newer attempt of the run has started, this one is a leftover: its ranks are killed before they can write
  into the same directory.

Free of torch: only `torchrun` itself, a process of its own, imports it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from trainer.contract.attempts import claim_attempt, newest_attempt
from trainer.contract.exit_codes import AGREED_EXITS, EXIT_FAILED, EXIT_FENCED, EXIT_PORT_TAKEN, EXIT_PREEMPTED
from trainer.contract.run_dir import RunDir, write_atomically
from trainer.node.compile_cache import with_compile_cache
from trainer.node.failure import last_error_line, oom_kills, port_was_taken, why_ended
from trainer.node.first_failure import Ending, first_failure, torchrun_endings
from trainer.node.gathering import gather
from trainer.node.meeting import Meeting, Party
from trainer.node.rank import die_with

POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0  # between looks at the run directory
PEER_GRACE = 10.0  # for ranks whose peers on another node have failed


@dataclass(frozen=True)
class Node:
    """What this node was asked to run."""

    run_dir: Path
    attempt: int
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

    @property
    def logs(self) -> Path:
        return RunDir(self.run_dir).logs(self.attempt)


def main(arguments: list[str] | None = None) -> int:
    """Run this node's share of a job and return its exit code."""
    node = _parse(arguments)
    node.logs.mkdir(parents=True, exist_ok=True)
    found = find_the_others(node)
    if isinstance(found, int):
        return found
    own_log = node.logs / f"torchrun_{socket.gethostname()}_{os.getpid()}.log"
    me = os.getpid()
    with own_log.open("ab") as log:
        torchrun = subprocess.Popen(
            torchrun_command(node, found),
            env=node_environment(node, dict(os.environ), found),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C comes here alone
            preexec_fn=lambda: _prepare(me),
        )
    watch = Watch(node, torchrun)
    code = watch.until_end()
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the code that this agent leaves with must not be lost now
    return _report(node, watch, code, own_log)


def _prepare(parent: int) -> None:
    """Slurm signals every process of a step, so torchrun too: SIGUSR1 must not end it, and with it all ranks."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    die_with(parent)


def _parse(arguments: list[str] | None) -> Node:
    parser = argparse.ArgumentParser(prog="trainer.node.agent", description="Run one node's ranks of a job.")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--attempt", type=int, help="default: the first node claims the next one, the others find it")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1, help="ranks on this node")
    parser.add_argument("--rendezvous", default="127.0.0.1:29400", help="HOST:PORT of the first node")
    parser.add_argument("--id", default="escala", help="the same on all nodes of one attempt, and on no others")
    parser.add_argument("--host", action="store_true", help="this is the first node (Slurm and Kubernetes say so)")
    parser.add_argument("--restarts", type=int, default=0, help="how often failed ranks are started again in place")
    parser.add_argument("--grace", type=float, default=60.0, help="seconds that ranks get to save after SIGTERM")
    parser.add_argument("--join-timeout", type=int, default=600, help="seconds to wait for the other nodes")
    parser.add_argument("--names", default="", help="A,B,...: all nodes as people know them, to say which is missing")
    parser.add_argument(
        "--interface",
        default=os.environ.get("ESCALA_INTERFACE"),
        help="network interface on which nodes meet, such as ib0; default: $ESCALA_INTERFACE, else one that all reach",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- PROGRAM ARGS of one rank")
    a = parser.parse_args(arguments)
    command = tuple(a.command[1:] if a.command[:1] == ["--"] else a.command)
    if not command:
        parser.error("the program of a rank is missing: ... -- -m trainer.train --run-dir DIR")
    host = a.host or a.nodes == 1 or "0" in (os.environ.get("SLURM_NODEID"), os.environ.get("JOB_COMPLETION_INDEX"))
    attempt = a.attempt or agree_on_attempt(a.run_dir, a.id, host, a.join_timeout)
    names = tuple(name for name in a.names.split(",") if name)
    return Node(
        *(a.run_dir, attempt, a.nodes, a.ranks, a.rendezvous, a.id, host, a.restarts, a.grace, a.join_timeout, command),
        names=names,
        interface=a.interface or None,
    )


def agree_on_attempt(run_dir: Path, identity: str, host: bool, timeout: float) -> int:
    """Return the attempt of this start. The first node makes its directory and signs it; the others look for it."""
    logs = run_dir / "logs"
    deadline = time.monotonic() + timeout
    if host:
        attempt, claimed = claim_attempt(run_dir)
        write_atomically(claimed / "id", identity)
        return attempt
    while time.monotonic() < deadline:
        attempt = newest_attempt(run_dir)
        with contextlib.suppress(FileNotFoundError):
            if (logs / str(attempt) / "id").read_text() == identity:
                return attempt
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"the first node did not begin within {timeout:.0f} s: does {run_dir} lie on a shared filesystem?")


def find_the_others(node: Node) -> Meeting | int:
    """Return where the nodes meet, or the exit code where they do not."""
    host, _, port = node.rendezvous.rpartition(":")
    hint = host.strip("[]")
    party = Party(
        *(node.nodes, node.is_host, node.identity, hint, int(port), node.logs, float(node.join_timeout)),
        names=node.names,
        interface=node.interface,
    )
    return gather(party, lambda: newest_attempt(node.run_dir) > node.attempt)


def torchrun_command(node: Node, meeting: Meeting) -> list[str]:
    """Return the `torchrun` command line of this node."""
    port = node.rendezvous.rpartition(":")[2]
    address = f"[{meeting.address}]" if ":" in meeting.address else meeting.address
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        f"--nnodes={node.nodes}",
        f"--nproc-per-node={node.ranks}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={address}:{port}",
        f"--rdzv-id={node.identity}",
        f"--rdzv-conf=is_host={int(node.is_host)},join_timeout={node.join_timeout},timeout={node.join_timeout}",
        f"--local-addr={meeting.local}",
        f"--max-restarts={node.restarts}",
        *("-m", "trainer.node.rank", *node.command),
    ]


def node_environment(node: Node, base: dict[str, str], meeting: Meeting) -> dict[str, str]:
    """Return what the ranks inherit."""
    network = {}
    if meeting.interface is not None and "GLOO_SOCKET_IFNAME" not in base:
        network["GLOO_SOCKET_IFNAME"] = meeting.interface  # gloo would take the address that the host's own name has
    if node.interface is not None:
        network |= {"GLOO_SOCKET_IFNAME": node.interface, "NCCL_SOCKET_IFNAME": node.interface}
    return {
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // node.ranks)),
        **with_compile_cache(base),
        **network,
        "ESCALA_LOGS": str(node.logs),
        "ESCALA_ATTEMPT": str(node.attempt),
        "PYTHONUNBUFFERED": "1",
        # A store of its own for each attempt's process group: a shared one keeps the keys of ranks that are gone.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # Schedulers signal torchrun too, which then gives its ranks only so long to save.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(int(node.grace)),
    }


class Watch:
    """Waits for `torchrun`, and acts on signals and on newer attempts meanwhile."""

    def __init__(
        self, node: Node, torchrun: subprocess.Popen[bytes], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.node = node
        self.torchrun = torchrun
        self.clock = clock
        self.asked_to_stop = False
        self.ranks_seen = False
        self.fenced = False
        self.told_at: float | None = None  # by the clock of the wall, as ranks record their ends
        self.oom_kills = oom_kills()
        self.kill_at: float | None = None
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)

    def until_end(self) -> int:
        """Return torchrun's exit code."""
        look_at = self.clock()
        while self.torchrun.poll() is None:
            time.sleep(POLL_SECONDS)
            now = self.clock()
            if self.kill_at is not None and now > self.kill_at:
                self._kill()
            if now > look_at:
                look_at = now + LOOK_SECONDS
                self._look_around(now)
                if self.asked_to_stop:  # a rank that was still importing did not hear it
                    self._send(signal.SIGUSR1)
        return self.torchrun.returncode

    def _look_around(self, now: float) -> None:
        """Act on what others left in the run directory: a newer attempt, or a failure on another node."""
        self.ranks_seen = self.ranks_seen or bool(self._ranks())
        if newest_attempt(self.node.run_dir) > self.node.attempt:
            self.fenced = True
            self._kill()
        elif self.kill_at is None and any(self.node.logs.glob("failure_*.json")):
            self.kill_at = now + PEER_GRACE
            self._send(signal.SIGTERM)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.asked_to_stop = True
        if not self._ranks() and not self.ranks_seen:  # nothing has started, so nothing is lost
            self._kill()  # when all ranks have ended, torchrun ends by itself, and its code says how they did
        self._send(signal.SIGUSR1 if number == signal.SIGUSR1 else signal.SIGTERM)
        if number != signal.SIGUSR1 and self.kill_at is None:
            self.kill_at = self.clock() + self.node.grace

    def _send(self, number: int) -> None:
        self.told_at = self.told_at or time.time()
        for rank in self._ranks():
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.send_signal(number)

    def _ranks(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.torchrun.pid).children())
        return []

    def _kill(self) -> None:
        self.kill_at = None
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.torchrun.pid).children(recursive=True)
            for process in (psutil.Process(self.torchrun.pid), *below):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def _report(node: Node, watch: Watch, code: int, own_log: Path) -> int:
    """Turn torchrun's end and the ranks' records into one exit code, and print what happened."""
    if watch.fenced:
        print(f"attempt {node.attempt} on {socket.gethostname()} was ended: a newer attempt of this run has started")
        return EXIT_FENCED
    first = first_failure(_endings(node, watch, own_log))
    if first is None and code == 0:
        return 0
    elsewhere = any(node.logs.glob("failure_*.json"))  # then it was asked to stop because of that
    stopped = watch.asked_to_stop and not elsewhere
    if first is not None and (first.code == EXIT_PREEMPTED or (stopped and first.severity > 1)):
        return EXIT_PREEMPTED
    if first is None:
        if stopped:
            return EXIT_PREEMPTED
        print(f"torchrun on {socket.gethostname()} ended with code {code}: {last_error_line(own_log)} (see {own_log})")
        return EXIT_PORT_TAKEN if port_was_taken(own_log) else EXIT_FAILED
    first.write(node.logs)
    log = node.logs / f"rank_{first.rank}.log"
    print(f"{first} (see {log})", flush=True)
    if port_was_taken(log):
        return EXIT_PORT_TAKEN
    return first.code if first.code in AGREED_EXITS or 0 < first.code < EXIT_PREEMPTED else EXIT_FAILED


def _endings(node: Node, watch: Watch, own_log: Path) -> list[Ending]:
    """Return how the ranks ended: their own records, and what torchrun says of those that could leave none."""
    recorded = {row["rank"]: Ending(**row) for row in _exits(node.logs)}
    listed = {ending.rank: ending for ending in torchrun_endings(own_log)}
    kills = None if watch.oom_kills is None else (oom_kills() or 0) - watch.oom_kills
    found = []
    for ending in {**listed, **recorded}.values():
        told = watch.told_at is not None and ending.time > watch.told_at
        log = node.logs / f"rank_{ending.rank}.log"
        why = why_ended(log, ending.code, oom_kills=kills, told=told)
        found.append(replace(ending, told=told, message=why))
    return found


def _exits(logs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in logs.glob("exit_*.json")]


if __name__ == "__main__":
    sys.exit(main())
