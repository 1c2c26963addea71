"""This machine: ranks are processes here, and several jobs run side by side."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import Field

from launch.cluster.backend import Answers, Driven, Driver, Sharing
from launch.cluster.job import JobSpec
from trainer.config.base import Section, parse_section
from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig


class LocalOptions(Section):
    """How the GPUs of this machine are shared out."""

    slots_per_gpu: int = Field(1, gt=0, description="ranks of different jobs that share one GPU; needs `gpu`")


def _open(cluster: ClusterConfig, sharing: Sharing) -> Driver:
    from launch.cluster.local.backend import LocalBackend

    per_gpu = _slots_per_gpu(cluster)
    if per_gpu > 1 and cluster.gpu is None:
        raise UserError(f"options.slots_per_gpu is {per_gpu}: say in `gpu` which GPU it is, whose memory they share")
    return LocalBackend(
        cluster.nodes * cluster.ranks_per_node,
        threads=sharing.threads,
        python=cluster.interpreter,
        log=sharing.log,
        slots_per_gpu=per_gpu,
    )


def _slots_per_gpu(cluster: ClusterConfig) -> int:
    """Return how many ranks share a GPU of this machine."""
    return parse_section(LocalOptions, dict(cluster.options), "local").slots_per_gpu


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
    slots_per_gpu=_slots_per_gpu,
    reach=_reach,
    ask_nodes=_ask_nodes,
    side_by_side=True,
)
