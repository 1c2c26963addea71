"""The cluster YAML: where jobs run, and what is the same for all of them there. `configs/cluster/<name>.yaml`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from launch.cluster.job import Backend, JobSpec, Mount, Requeue, Task
from launch.cluster.time_limit import TimeLimit
from trainer.config.base import Section, parse_section
from trainer.config.load import config_file, read_yaml
from trainer.contract.errors import UserError


class RequeueConfig(Section):
    """When a job that ended early runs again. A preempted one always does."""

    on_timeout: int = Field(10, ge=0, description="how often a job may reach its time limit and go on")
    on_failure: int = Field(0, ge=0, description="how often failed ranks are started again")


class MountConfig(Section):
    """A directory of the host inside the container."""

    source: str = Field(description="on the host")
    target: str = Field(description="in the container")
    read_only: bool = Field(False, description="ranks cannot write there")


class ClusterConfig(Section):
    """One cluster. `options` are those of its backend: see `escala render --help` and docs/launching.md."""

    backend: Literal["local", "slurm", "ssh", "kubernetes"] = Field("local", description="who starts the ranks")
    nodes: int = Field(1, gt=0, description="machines of one job")
    ranks_per_node: int = Field(1, gt=0, description="processes on one node: one for each GPU")
    gpu: str | None = Field(None, description="a name of the planner's table, such as H100-SXM")
    python: str = Field(sys.executable, description="the interpreter on the nodes, with Escala installed")
    directory: str = Field(".", description="where ranks start, on the nodes")
    environment: dict[str, str] = Field({}, description="written into the script: nothing secret")
    secrets: tuple[str, ...] = Field(
        (), description="names of variables that are handed on from your shell, never written"
    )
    time_limit: TimeLimit | None = Field(None, description="minutes, or 12h, 12:00:00, 1-12:00:00")
    interface: str | None = Field(
        None, description="network on which nodes meet, such as ib0; by default one on which all reach the first node"
    )
    requeue: RequeueConfig = RequeueConfig()
    container: str | None = Field(None, description="image")
    mounts: tuple[MountConfig, ...] = ()
    options: dict[str, Any] = Field({}, description="options of the backend, by its own names")

    def job(self, name: str, command: tuple[str, ...], run_dir: Path) -> JobSpec:
        """Return the job that runs `command` on this cluster."""
        return JobSpec(
            name=name,
            command=command,
            run_dir=run_dir,
            nodes=self.nodes,
            ranks_per_node=self.ranks_per_node,
            environment=self.environment | ({"ESCALA_INTERFACE": self.interface} if self.interface else {}),
            directory=self.work_directory,
            time_limit=self.time_limit,
            requeue=Requeue(self.requeue.on_timeout, self.requeue.on_failure),
            gpu=self.gpu,
            container=self.container,
            mounts=tuple(Mount(Path(m.source), Path(m.target), m.read_only) for m in self.mounts),
            extras=self.options,
        )

    def array(self, name: str, tasks: tuple[Task, ...], directory: Path, at_most: int | None) -> JobSpec:
        """Return the array job of several runs of one shape, `at_most` of them at a time."""
        return replace(self.job(name, tasks[0].command, directory), array=tasks, array_cap=at_most)

    @property
    def work_directory(self) -> Path:
        """Return where ranks start. Over SSH a `~` stays: it is another home on each host."""
        return Path(self.directory).resolve() if self.directory == "." else Path(self._at_home(self.directory))

    @property
    def interpreter(self) -> str:
        """Return the Python of the nodes."""
        return self._at_home(self.python)

    def _at_home(self, path: str) -> str:
        """Open a `~` where the nodes have the homes of this machine. Raises UserError where there is no such home."""
        if not path.startswith("~") or self.backend == "ssh":
            return path
        if self.backend == "kubernetes":
            raise UserError(f"{path!r}: a container has no home of yours: write the whole path")
        try:
            return str(Path(path).expanduser())
        except RuntimeError:
            raise UserError(f"{path!r}: there is no such home on this machine: write the whole path") from None


LOCAL = ClusterConfig()


def cluster_file(name: str) -> Path:
    """Return the absolute path of the file that a name in configs/cluster, or a path, stands for. Raises UserError."""
    return config_file("cluster", name).absolute()


def load_cluster(name: str) -> ClusterConfig:
    """Read a cluster by its name in configs/cluster, or from a YAML file. Raises UserError."""
    path = cluster_file(name)
    if not path.exists():
        raise UserError(f"there is no cluster {name!r}: no file {path}")
    return parse_section(ClusterConfig, read_yaml(path), str(path))


def read_cluster(settings: Mapping[str, Any], where: str) -> ClusterConfig:
    """Return a cluster from the settings that a record kept. Raises UserError."""
    return parse_section(ClusterConfig, dict(settings), where)


def lasting_name(name: str) -> str:
    """Return a cluster's name as a record keeps it: a file by its whole path, whatever the directory is later."""
    return str(cluster_file(name)) if name.endswith((".yaml", ".yml")) else name


def open_backend(cluster: ClusterConfig) -> Backend:
    """Return the backend of a cluster. Each is imported only when it is asked for."""
    if cluster.backend == "slurm":
        from launch.cluster.slurm.backend import SlurmBackend

        return SlurmBackend(python=cluster.interpreter, directory=cluster.work_directory, secrets=cluster.secrets)
    if cluster.backend == "ssh":
        from launch.cluster.ssh.backend import SshBackend

        return SshBackend(python=cluster.interpreter, directory=cluster.work_directory, secrets=cluster.secrets)
    if cluster.backend == "kubernetes":
        from launch.cluster.kubernetes.backend import KubernetesBackend

        return KubernetesBackend(
            python=cluster.interpreter,
            directory=str(cluster.work_directory),
            secrets=cluster.secrets,
            namespace=str(cluster.options.get("namespace", "default")),
        )
    from launch.cluster.local.local import LocalBackend

    return LocalBackend(cluster.nodes * cluster.ranks_per_node, python=cluster.interpreter)
