"""Slurm: jobs are batch scripts, and a sweep is an array."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch.cluster.backend import Answers, Queued, Scheduler
from launch.cluster.job import JobSpec
from launch.cluster.slurm.arrays import array_of, task_ids
from launch.cluster.slurm.script import SlurmOptions, warnings

if TYPE_CHECKING:
    from launch.cluster.config import ClusterConfig


def _open(cluster: ClusterConfig) -> Scheduler:
    from launch.cluster.slurm.backend import SlurmBackend

    return SlurmBackend(python=cluster.interpreter, directory=cluster.work_directory, secrets=cluster.secrets)


def _reach(cluster: ClusterConfig) -> str:
    from launch.cluster.slurm.nodes import reach

    return reach(cluster)


def _ask_nodes(cluster: ClusterConfig, spec: JobSpec, words: tuple[str, ...]) -> Answers:
    from launch.cluster.slurm.nodes import ask_nodes

    return ask_nodes(cluster, spec, words)


SLURM = Queued(
    name="slurm",
    summary="the Slurm of this login node",
    options=SlurmOptions,
    open=_open,
    reach=_reach,
    ask_nodes=_ask_nodes,
    warnings=warnings,
    containers=True,
    arrays=True,
    dependencies=True,
    task_ids=task_ids,
    array_of=array_of,
    programs=("sbatch", "srun", "sacct", "apptainer"),
)
