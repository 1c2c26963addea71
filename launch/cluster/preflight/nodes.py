"""Ask every node of a cluster to describe itself, the way its backend reaches nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from launch.cluster.config import ClusterConfig
from launch.cluster.job import JobSpec
from launch.cluster.process import call
from launch.cluster.slurm.environment import client_environment
from launch.cluster.slurm.script import slurm_options
from launch.cluster.ssh.connection import remote_command
from launch.cluster.ssh.hosts import hosts_for, ssh_command
from trainer.contract.errors import UserError

NODE_SECONDS = 90.0
REPORT = '{"host"'
SLURM_WAIT_SECONDS = 300.0
PLACE = ("partition", "account", "qos", "constraint", "reservation", "nodelist", "exclude", "gpus_per_node", "gres")


def ask(cluster: ClusterConfig, spec: JobSpec, meet: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the reports of the nodes that answered, and in words what went wrong with the others."""
    words = ["-m", "trainer.node.node_check", "--meet", str(meet), "--nodes", str(spec.nodes)]
    if cluster.backend == "local":
        # Several nodes of the local backend are one machine: it is asked once for each.
        commands = [[cluster.interpreter, *words]] * spec.nodes
        return _gather(commands)
    if cluster.backend == "ssh":
        hosts, options = hosts_for(spec)
        python, directory = cluster.interpreter, cluster.work_directory
        return _gather(
            [
                [*ssh_command(h, options), remote_command(h.python or python, h.directory or directory, tuple(words))]
                for h in hosts
            ]
        )
    if cluster.backend == "slurm":
        return _ask_slurm(cluster, spec, words)
    raise UserError("preflight runs on local, ssh and slurm clusters; for Kubernetes submit a small run instead")


def _ask_slurm(cluster: ClusterConfig, spec: JobSpec, words: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    options = slurm_options(spec).model_dump(include=set(PLACE), exclude_none=True)
    place = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    shape = [f"--nodes={spec.nodes}", "--ntasks-per-node=1", "--time=5", f"--chdir={cluster.work_directory}"]
    command = ["srun", "--export=ALL", *place, *shape, "--job-name=escala-preflight", cluster.interpreter, *words]
    try:
        # Not as a step of a job that this shell may run in.
        return _reports(call(command, timeout=SLURM_WAIT_SECONDS, env=client_environment(os.environ))), []
    except UserError as error:
        return [], [str(error)]


def _gather(commands: Sequence[list[str]]) -> tuple[list[dict[str, Any]], list[str]]:
    with ThreadPoolExecutor(len(commands)) as pool:
        done = list(pool.map(_one, commands))
    return [r for reports, _ in done for r in reports], [problem for _, problem in done if problem]


def _one(command: list[str]) -> tuple[list[dict[str, Any]], str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NODE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"{command[0]}: {error}"
    reports = _reports(done.stdout)
    said = done.stderr.strip().splitlines()
    where = command[-2] if command[0] == "ssh" else Path(sys.executable).name
    return reports, "" if reports else f"{where}: {said[-1] if said else f'ended with code {done.returncode}'}"


def _reports(text: str) -> list[dict[str, Any]]:
    """Read the nodes' lines among what login shells print, which may end without a newline."""
    lines = [line[line.index(REPORT) :] for line in text.splitlines() if REPORT in line]
    return [json.loads(line) for line in lines]
