"""Ask every node of a cluster to describe itself, the way its backend reaches nodes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cluster.backend import Answers
from launch.cluster.backends import find_backend
from launch.cluster.job import JobSpec
from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig

NODE_SECONDS = 90.0
REPORT = '{"host"'


def ask(cluster: ClusterConfig, spec: JobSpec, meet: Path) -> Answers:
    """Return the reports of the nodes that answered, and in words what went wrong with the others. Raises UserError."""
    ask_nodes = find_backend(cluster.backend).ask_nodes
    if ask_nodes is None:
        raise UserError(f"preflight cannot ask the nodes of a {cluster.backend} cluster: submit a small run instead")
    return ask_nodes(cluster, spec, ("-m", "trainer.node.node_check", "--meet", str(meet), "--nodes", str(spec.nodes)))


def gather(commands: Sequence[tuple[str, list[str]]]) -> Answers:
    """Run the named commands, all at once, each of which makes nodes describe themselves."""
    with ThreadPoolExecutor(len(commands)) as pool:
        done = list(pool.map(lambda named: _one(*named), commands))
    return [r for reports, _ in done for r in reports], [problem for _, problem in done if problem]


def _one(name: str, command: list[str]) -> tuple[list[dict[str, Any]], str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=NODE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"{command[0]}: {error}"
    reports = reports_in(done.stdout)
    said = done.stderr.strip().splitlines()
    return reports, "" if reports else f"{name}: {said[-1] if said else f'ended with code {done.returncode}'}"


def reports_in(text: str) -> list[dict[str, Any]]:
    """Read the nodes' lines among what login shells print, which may end without a newline."""
    lines = [line[line.index(REPORT) :] for line in text.splitlines() if REPORT in line]
    return [json.loads(line) for line in lines]
