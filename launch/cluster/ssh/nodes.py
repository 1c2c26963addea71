"""The hosts of a cluster over SSH: whether they answer, and what each says about itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from launch.cluster.backend import Answers
from launch.cluster.job import JobSpec
from launch.cluster.preflight.nodes import gather
from launch.cluster.ssh.connection import remote_command
from launch.cluster.ssh.hosts import hosts_for, ssh_command
from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig

SECONDS = 15.0


def reach(cluster: ClusterConfig) -> str:
    """Return the hosts' names. Raises UserError that names those which cannot be reached, and why."""
    hosts, options = hosts_for(cluster.job("clusters", (), Path("clusters")))
    silent = []
    for host in hosts:
        words = [*ssh_command(host, options), "true"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            silent.append(f"{host.name} (no answer within {SECONDS:.0f} s)")
            continue
        if done.returncode != 0:
            silent.append(f"{host.name} ({(done.stderr.strip().splitlines() or [f'code {done.returncode}'])[-1]})")
    if silent:
        raise UserError(f"{len(hosts) - len(silent)} of {len(hosts)} hosts; not {', '.join(silent)}")
    return f"{len(hosts)} hosts: {', '.join(host.name for host in hosts)}"


def ask_nodes(cluster: ClusterConfig, spec: JobSpec, words: tuple[str, ...]) -> Answers:
    """Run Python once on each host."""
    return gather(node_commands(cluster, spec, words))


def node_commands(cluster: ClusterConfig, spec: JobSpec, words: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """Return each host's name and the command that runs Python there, with the host's own interpreter."""
    hosts, options = hosts_for(spec)
    python, directory = cluster.interpreter, cluster.work_directory
    return [
        (h.name, [*ssh_command(h, options), remote_command(h.python or python, h.directory or directory, words)])
        for h in hosts
    ]
