"""Machines over SSH: this process drives the ranks, and one job runs at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch.cluster.backend import Answers, Driven, Driver, Home, Sharing
from launch.cluster.job import JobSpec
from launch.cluster.ssh.hosts import SshOptions

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig


def _open(cluster: ClusterConfig, _: Sharing) -> Driver:
    from launch.cluster.ssh.backend import SshBackend

    return SshBackend(python=cluster.interpreter, directory=cluster.work_directory, secrets=cluster.secrets)


def _reach(cluster: ClusterConfig) -> str:
    from launch.cluster.ssh.nodes import reach

    return reach(cluster)


def _ask_nodes(cluster: ClusterConfig, spec: JobSpec, words: tuple[str, ...]) -> Answers:
    from launch.cluster.ssh.nodes import ask_nodes

    return ask_nodes(cluster, spec, words)


def _warnings(spec: JobSpec) -> list[str]:
    """Return what has no effect: nothing ends a job over SSH when its time is over."""
    if spec.time_limit is None:
        return []
    return [f"time_limit ({spec.time_limit} minutes) has no effect over SSH: the job runs until it is done"]


SSH = Driven(
    name="ssh",
    summary="machines over SSH, driven from this one",
    options=SshOptions,
    open=_open,
    reach=_reach,
    ask_nodes=_ask_nodes,
    warnings=_warnings,
    home=Home.OF_EACH_NODE,
    programs=("ssh", "rsync"),
)
