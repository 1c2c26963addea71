"""Accelerate: Escala writes the configuration of `accelerate launch`, and a person or another system starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from launch.cluster.backend import Queued
from launch.cluster.job import JobSpec
from trainer.config.base import Section
from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from launch.cluster.accelerate.backend import AccelerateBackend
    from launch.cluster.config import ClusterConfig


class AccelerateOptions(Section):
    """What machines need to find one another."""

    main_process_ip: str | None = Field(None, description="address of the first machine; needed for several nodes")
    main_process_port: int = Field(29500, gt=0, lt=65536, description="port there")


def _open(cluster: ClusterConfig) -> AccelerateBackend:
    from launch.cluster.accelerate.backend import AccelerateBackend

    if cluster.secrets:
        raise UserError(
            f"secrets ({', '.join(cluster.secrets)}) cannot be handed on to `accelerate launch`: leave them out of the "
            "cluster file, and export them where you start it"
        )
    return AccelerateBackend(python=cluster.interpreter)


def _start(cluster: ClusterConfig, spec: JobSpec) -> str:
    return _open(cluster).start(spec)


def _reach(_: ClusterConfig) -> str:
    return "nobody is asked: runs are started with `accelerate launch`"


ACCELERATE = Queued(
    name="accelerate",
    summary="runs that you start with `accelerate launch`",
    options=AccelerateOptions,
    open=_open,
    reach=_reach,
    start=_start,
    packages=("accelerate",),
)
