"""Whether a configured cluster answers: one short question to each, which starts nothing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from launch.cluster.config import ClusterConfig, load_cluster
from launch.cluster.kubernetes.client import api_errors, official_clients
from launch.cluster.process import call
from launch.cluster.slurm.queue import SlurmQueue
from trainer.contract.errors import UserError

SECONDS = 15.0


def describe(name: str) -> dict[str, object]:
    """Return what a cluster is and what it answered, as plain values. A file that cannot be read is no answer."""
    row: dict[str, Any] = {"name": name, "backend": None, "nodes": None, "ranks_per_node": None}
    try:
        cluster = load_cluster(name)
        row |= {"backend": cluster.backend, "nodes": cluster.nodes, "ranks_per_node": cluster.ranks_per_node}
        return {**row, "answers": True, "said": ask(cluster)}
    except (UserError, OSError) as error:
        return {**row, "answers": False, "said": str(error)}


def ask(cluster: ClusterConfig) -> str:
    """Return in words what a cluster answered. Raises UserError where it did not."""
    if cluster.backend == "local":
        return f"this machine, {os.cpu_count()} cores"
    if cluster.backend == "slurm":
        return _slurm(cluster)
    if cluster.backend == "ssh":
        return _ssh(cluster)
    return _kubernetes()


def _slurm(cluster: ClusterConfig) -> str:
    queue = SlurmQueue(call)
    partition = cluster.options.get("partition")
    only = [f"--partition={partition}"] if partition else []
    states = queue.ask("sinfo", "--noheader", *only, "--format=%D %T").split()
    nodes = [f"{count} {state}" for count, state in zip(states[::2], states[1::2], strict=True)]
    where = f"Slurm {queue.site}" + (f", partition {partition}" if partition else "")
    if not nodes:
        raise UserError(f"{where} has no nodes")
    return f"{where}: {', '.join(nodes)}"


def _ssh(cluster: ClusterConfig) -> str:
    from launch.cluster.ssh.hosts import hosts_for, ssh_command

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


def _kubernetes() -> str:
    official_clients()  # set up the client, or say why they cannot
    from kubernetes import client

    with api_errors("answer"):
        version = client.VersionApi().get_code(_request_timeout=SECONDS)
    return f"Kubernetes {version.git_version}"
