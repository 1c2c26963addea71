"""Kubernetes with the JobSet controller: each run is a JobSet, and so is each cell of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch.cluster.backend import Home, Queued, Scheduler
from launch.cluster.kubernetes.options import KubernetesOptions, warnings
from trainer.config.base import parse_section

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig

SECONDS = 15.0


def _open(cluster: ClusterConfig) -> Scheduler:
    from launch.cluster.kubernetes.backend import KubernetesBackend

    return KubernetesBackend(
        python=cluster.interpreter,
        directory=str(cluster.work_directory),
        secrets=cluster.secrets,
        namespace=parse_section(KubernetesOptions, dict(cluster.options), "kubernetes").namespace,
    )


def _reach(_: ClusterConfig) -> str:
    from launch.cluster.kubernetes.client import api_errors, official_clients

    official_clients()  # set up the client, or say why they cannot
    from kubernetes import client

    with api_errors("answer"):
        version = client.VersionApi().get_code(_request_timeout=SECONDS)
    return f"Kubernetes {version.git_version}"


KUBERNETES = Queued(
    name="kubernetes",
    summary="a Kubernetes cluster with the JobSet controller",
    options=KubernetesOptions,
    open=_open,
    reach=_reach,
    warnings=warnings,
    home=Home.NOBODYS,
    containers=True,
    arrays=True,
    programs=("kubectl",),
    packages=("kubernetes",),
)
