"""The agent of one node: starts one `torchrun`, passes signals on to the ranks, and says who failed first.

    python -m trainer.node.agent --run-dir DIR --nodes 2 --ranks 8 --rendezvous HOST:29500 --id START -- PROGRAM...

The same line is started once on every node; PROGRAM is `-m MODULE ARGS` or a file. What `torchrun` alone does not do:

- The first node claims the attempt, unless a driver has, and the others follow it. A job that began where two starts of
  it began already, and saved nothing newer, is ended (exit code 78).
- SIGUSR1 and SIGTERM reach every rank, which may save before it goes; TERM turns into KILL after a grace time.
- SIGUSR2 has every rank write down where it is (`stacks.py`). So has the end of another rank, before it is ended too.
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

import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from trainer.contract.attempts import newest_attempt
from trainer.contract.errors import UserError, os_error_text
from trainer.contract.exit_codes import AGREED_EXITS, EXIT_FAILED, EXIT_FENCED, EXIT_PORT_TAKEN, EXIT_PREEMPTED
from trainer.node.arguments import Node, node_of, parse
from trainer.node.claiming import or_standstill
from trainer.node.compile_cache import with_compile_cache
from trainer.node.echo import Echo
from trainer.node.error_files import ENDS, endings
from trainer.node.failure import last_error_line, oom_kills, port_was_taken, why_ended
from trainer.node.first_failure import Ending, first_failure
from trainer.node.gathering import Leave, gather, leaving_when_told
from trainer.node.meeting import Meeting, Party
from trainer.node.rank import die_with
from trainer.node.stacks import ASK
from trainer.node.watch import ANSWER_SECONDS, LOOK_SECONDS, Watch

# With the store of its rendezvous, so that other nodes look and ask before their own torchrun misses it.
STAYS = LOOK_SECONDS + ANSWER_SECONDS + 1.0


def main(arguments: list[str] | None = None) -> int:
    """Run this node's share of a job and return its exit code."""
    asked = parse(arguments)
    signal.signal(ASK, signal.SIG_IGN)  # until there are ranks to pass it on to
    try:
        with leaving_when_told():
            node = node_of(asked)
            found = node if isinstance(node, int) else find_the_others(node)
    except Leave as left:
        return left.code
    except (UserError, OSError) as error:
        print(f"error: {os_error_text(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return EXIT_FAILED
    if isinstance(node, int):
        return node
    if isinstance(found, int):
        return _settled(node, found, over=True)
    with tempfile.TemporaryDirectory(prefix="escala-agent-", ignore_cleanup_errors=True) as directory:
        return run_torchrun(node, found, Path(directory))


def run_torchrun(node: Node, meeting: Meeting, errors: Path) -> int:
    """Start this node's ranks and stay with them to their end. `errors` is an empty directory for their error files."""
    own_log = node.logs / f"torchrun_{socket.gethostname()}_{os.getpid()}.log"
    me = os.getpid()
    with own_log.open("ab") as log:
        torchrun = subprocess.Popen(
            torchrun_command(node, meeting, errors),
            env=node_environment(node, dict(os.environ), meeting),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C comes here alone
            preexec_fn=lambda: _prepare(me),
        )
    watch, echo = Watch(node, torchrun), Echo(errors)

    blamed = False

    def meanwhile() -> None:
        nonlocal blamed
        if node.echo:
            echo.go_on()
        if not (blamed or watch.asked_to_stop) and (errors / ENDS).exists():
            blamed = True
            _tell_other_nodes(node, watch, errors)

    code = watch.until_end(meanwhile)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, ASK):
        signal.signal(number, signal.SIG_IGN)  # the code that this agent leaves with must not be lost now
    if node.echo:
        echo.go_on(last=True)
    # torchrun leaves with 0 after all ranks of all nodes have ended; without a rank here, there was none anywhere.
    over = code == 0 or node.nodes == 1 or not watch.ranks_seen
    return _settled(node, _report(node, watch, code, own_log, errors), over=over)


def _settled(node: Node, code: int, *, over: bool) -> int:
    """Return the code to leave with. Once all is `over`, the first node sees whether the attempt got anywhere."""
    return or_standstill(node.run_dir, node.claim, code) if over and node.is_host else code


def _prepare(parent: int) -> None:
    """Slurm signals every process of a step, so torchrun too: these must not end it, and with it all ranks."""
    for number in (signal.SIGUSR1, ASK):
        signal.signal(number, signal.SIG_IGN)
    die_with(parent)


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


def torchrun_command(node: Node, meeting: Meeting, errors: Path) -> list[str]:
    """Return the `torchrun` command line of this node."""
    port = node.rendezvous.rpartition(":")[2]
    address = f"[{meeting.address}]" if ":" in meeting.address else meeting.address
    return [
        *(
            sys.executable,
            "-m",
            "trainer.node.torchrun",
            str(errors),
            str(STAYS if node.nodes > 1 and node.is_host else 0),
        ),
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


def _report(node: Node, watch: Watch, code: int, own_log: Path, errors: Path) -> int:
    """Turn torchrun's end and the ranks' records into one exit code, and print what happened."""
    if watch.fenced:
        print(f"attempt {node.attempt} on {socket.gethostname()} was ended: a newer attempt of this run has started")
        return EXIT_FENCED
    first = first_failure(_endings(node, watch, errors))
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


def _tell_other_nodes(node: Node, watch: Watch, errors: Path) -> None:
    """Record which rank failed while torchrun still stays, so that their agents ask where their ranks are."""
    first = first_failure(_endings(node, watch, errors))
    if first is not None and first.code not in AGREED_EXITS:
        first.write(node.logs)


def _endings(node: Node, watch: Watch, errors: Path) -> list[Ending]:
    """Return how the ranks of this node ended, and why."""
    found = endings(errors)
    kills = None if watch.oom_kills is None else (oom_kills() or 0) - watch.oom_kills
    failed = any(ending.code not in (0, -signal.SIGTERM) for ending in found)
    explained = []
    for ending in found:
        told = watch.told_at is not None and ending.time > watch.told_at
        told = told or (failed and ending.code == -signal.SIGTERM)  # torchrun ends the peers of a rank that failed
        log = node.logs / f"rank_{ending.rank}.log"
        why = ending.message or why_ended(log, ending.code, oom_kills=kills, told=told)
        explained.append(replace(ending, told=told, message=why))
    return explained


if __name__ == "__main__":
    sys.exit(main())
