"""This machine: ranks are processes here, and several jobs run side by side."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from launch.cluster.backend import Answers, Driven, Driver, Sharing
from launch.cluster.job import JobSpec
from trainer.config.base import Section

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig


class LocalOptions(Section):
    """This machine needs none."""


def _open(cluster: ClusterConfig, sharing: Sharing) -> Driver:
    from launch.cluster.local.local import LocalBackend

    return LocalBackend(
        cluster.nodes * cluster.ranks_per_node,
        threads=sharing.threads,
        python=cluster.interpreter,
        log=sharing.log,
    )


def _reach(_: ClusterConfig) -> str:
    return f"this machine, {os.cpu_count()} cores"


def _ask_nodes(cluster: ClusterConfig, spec: JobSpec, words: tuple[str, ...]) -> Answers:
    """Ask this machine once for each node, for all of them are it."""
    from launch.cluster.preflight.nodes import gather

    return gather([("python", [cluster.interpreter, *words])] * spec.nodes)


LOCAL = Driven(
    name="local",
    summary="this machine",
    options=LocalOptions,
    open=_open,
    reach=_reach,
    ask_nodes=_ask_nodes,
    side_by_side=True,
)
