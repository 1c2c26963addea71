"""Reach every host of a job and check, before anything starts, that all of them can run it."""

from __future__ import annotations

import queue
import secrets
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.cluster.attached import job_id
from launch.cluster.job import JobSpec
from launch.cluster.process import call
from launch.cluster.ssh.connection import Node
from launch.cluster.ssh.hosts import Host, SshOptions, ssh_command
from trainer.contract.attempts import Claim
from trainer.contract.errors import UserError

HELLO_SECONDS = 30.0
NOT_COPIED = ("/.git", "/.venv", "/runs", "/data", "__pycache__")  # with a slash: at the top alone, not trainer/data

Inbox = queue.Queue[tuple[Node, dict[str, Any] | None]]


def connect(
    hosts: list[Host], options: SshOptions, python: str, directory: Path, run_dir: Path, inbox: Inbox
) -> list[Node]:
    """Open a connection to each host. Raises UserError, with every connection closed, when one cannot take part.

    Each host must see the run directory and be free of other drivers.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    probe = run_dir / f".shared-{secrets.token_hex(4)}"
    probe.touch()
    nodes = [Node(host, options, python=python, directory=directory) for host in hosts]
    try:
        for node in nodes:
            node.listen(inbox)
            order = {"see": str(probe), "lost_after": options.lost_after, "exclusive": options.exclusive}
            node.send({**order, "driver": job_id(), "run": str(run_dir)})
        _hear_from_all(nodes, inbox)
        _refuse_busy(nodes)
        blind = [node.host.name for node in nodes if not (node.hello or {})["sees"]]
        if blind:
            raise UserError(
                f"{', '.join(blind)} cannot see {run_dir}, which this machine just wrote to: "
                f"put the runs on a filesystem that all hosts and this machine share (--runs DIR)"
            )
    except BaseException:
        for node in nodes:
            node.kill()
        raise
    finally:
        probe.unlink(missing_ok=True)
    return nodes


def _refuse_busy(nodes: list[Node]) -> None:
    for node in nodes:
        if (who := (node.hello or {})["busy"]) is not None:
            driver, run = who.get("driver", "another process"), who.get("run", "another run")
            raise UserError(
                f"{node.host.name} is busy with {run}, driven by {driver}: wait for it, or end it with "
                f"'escala cancel {run}'; `exclusive: false` under `options` lets both share the host"
            )


def _hear_from_all(nodes: list[Node], inbox: Inbox) -> None:
    deadline = time.monotonic() + HELLO_SECONDS
    while any(node.hello is None for node in nodes):
        try:
            node, message = inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            silent = [node.host.name for node in nodes if node.hello is None]
            printed = next((why for node in nodes if node.hello is None and (why := _printed(node))), "")
            raise UserError(f"no answer from {', '.join(silent)} within {HELLO_SECONDS:.0f} s{printed}") from None
        if node not in nodes:
            continue
        if message is None:
            raise UserError(_explain(node))
        if "hello" in message:
            node.hello = message


def _printed(node: Node) -> str:
    """Return what a login shell said that does not let the command run."""
    return f" (it printed: {node.why_closed()})" if node.printed.strip() or node.stderr.strip() else ""


def _explain(node: Node) -> str:
    """Say why a connection ended before the node said hello, and what to do."""
    said, name = node.why_closed(), node.host.name
    if "Permission denied" in said:
        return f"{name} refused the key ({said}): name the right one as `key`, and try `ssh {name} true`"
    if "Host key verification failed" in said:
        return f"{name} is not a known host, or its key has changed: log in once with `ssh {name}`"
    if any(words in said for words in ("No such file", "not found", "No module named", "cannot access")):
        return (
            f"{name} is reached, but cannot start Escala ({said}): check `python` and `directory` of the cluster file"
        )
    return f"{name} cannot be reached: {said}"


def start_order(
    spec: JobSpec,
    directory: Path | str,
    index: int,
    claim: Claim,
    rendezvous: str,
    names: Sequence[str],
) -> dict[str, Any]:
    """Return the order that starts the agent of node `index` of `names`; the first node hosts the meeting."""
    words: list[object] = ["--run-dir", spec.run_dir, "--attempt", claim.attempt, "--nodes", spec.nodes]
    words += ["--ranks", spec.ranks_per_node, "--restarts", spec.requeue.on_failure]
    words += ["--rendezvous", rendezvous, "--id", claim.start]
    words += ["--names", ",".join(names), *(["--host"] if index == 0 else []), "--", *spec.command]
    return {"start": [str(word) for word in words], "directory": str(directory)}


def copy_code(hosts: list[Host], options: SshOptions, directory: Path) -> None:
    """Copy this work directory to every host with rsync. Raises UserError."""
    for host in hosts:
        *ssh, _, target = ssh_command(host, options)
        there = host.directory or str(directory)
        if there.startswith("~") and not there.startswith("~/"):
            raise UserError(f"ssh: sync copies to {there!r}, which only a shell understands: write the whole path")
        excluded = [f"--exclude={name}" for name in NOT_COPIED]
        words = ["rsync", "--archive", "--mkpath", "--secluded-args", *excluded, "-e", shlex.join(ssh), "--"]
        call([*words, f"{Path.cwd()}/", f"{target}:{there.removeprefix('~/')}/"], timeout=600)
