"""The cluster YAML: where jobs run, and what is the same for all of them there. `configs/cluster/<name>.yaml`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from launch.cluster.backend import Backend, Driven, Driver, Home, Queued, Scheduler, Sharing
from launch.cluster.backends import BACKENDS, THIS_MACHINE, find_backend, known_backends
from launch.cluster.job import JobSpec, Mount, Requeue, Task
from launch.cluster.one_by_one import OneByOne
from launch.cluster.time_limit import TimeLimit
from trainer.config.base import Section, parse_section
from trainer.config.load import config_file, read_yaml
from trainer.contract.errors import UserError, did_you_mean
from trainer.observe.metrics import PRICE

T = TypeVar("T")


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
    """One cluster. `options` are those of its backend: `escala keys --of cluster` prints them all."""

    backend: str = Field(THIS_MACHINE, description=f"who starts the ranks: {', '.join(BACKENDS)}")
    nodes: int = Field(1, gt=0, description="machines of one job")
    ranks_per_node: int = Field(1, gt=0, description="processes on one node: one for each GPU")
    gpu: str | None = Field(None, description="a name of the planner's table, such as H100-SXM")
    gpu_price: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="of one GPU for an hour, in your currency; without `gpu`, of one core",
    )
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

    @classmethod
    def known_keys(cls) -> list[str]:
        """Return the keys of a cluster file, and the options: a misspelt one may stand beside `options`."""
        options = (key for kind in known_backends() for key in kind.options.model_fields)
        return list(dict.fromkeys([*cls.model_fields, *options]))

    @model_validator(mode="before")
    @classmethod
    def _options_have_their_place(cls, values: Any) -> Any:
        """Say where an option belongs that stands beside the common keys."""
        for key in sorted(set(map(str, values)) - cls.model_fields.keys()) if isinstance(values, dict) else ():
            if owners := _owners(key):
                raise ValueError(f"{key!r} is an option of {' and '.join(owners)}: write it under `options`")
        return values

    @field_validator("backend")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return _no_user_error(lambda: find_backend(name).name)

    @field_validator("options")
    @classmethod
    def _are_those_of_the_backend(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Refuse by name what the backend does not know. The values stay as they were given."""
        if "backend" not in info.data:  # it is refused itself
            return options
        kind = find_backend(info.data["backend"])
        for key in sorted(options.keys() - kind.options.model_fields.keys()):
            if owners := _owners(key):
                raise ValueError(
                    f"{key!r} is an option of {' and '.join(owners)}, and `backend` is {kind.name}: leave it out"
                    f"{did_you_mean(key, kind.options.model_fields)}"
                )
        _no_user_error(lambda: parse_section(kind.options, options, kind.name))
        return options

    @model_validator(mode="after")
    def _container_is_possible(self) -> Self:
        if not find_backend(self.backend).containers and (self.container is not None or self.mounts):
            key = "mounts" if self.container is None else "container"
            raise ValueError(f"`{key}` has no effect on {self.backend}, which starts ranks without one: leave it out")
        return self

    def job(self, name: str, command: tuple[str, ...], run_dir: Path) -> JobSpec:
        """Return the job that runs `command` on this cluster."""
        return JobSpec(
            name=name,
            command=command,
            run_dir=run_dir,
            nodes=self.nodes,
            ranks_per_node=self.ranks_per_node,
            environment={**self.environment, **self._told_to_ranks()},
            directory=self.work_directory,
            time_limit=self.time_limit,
            requeue=Requeue(self.requeue.on_timeout, self.requeue.on_failure),
            gpu=self.gpu,
            container=self.container,
            mounts=tuple(Mount(Path(m.source), Path(m.target), m.read_only) for m in self.mounts),
            extras=self.options,
        )

    def _told_to_ranks(self) -> dict[str, str]:
        """Return what ranks learn of this file by their environment."""
        values = {"ESCALA_INTERFACE": self.interface or None, PRICE: self.gpu_price}
        return {name: str(value) for name, value in values.items() if value is not None}

    def array(self, name: str, tasks: tuple[Task, ...], directory: Path, at_most: int | None) -> JobSpec:
        """Return the array job of several runs of one shape, `at_most` of them at a time."""
        return replace(self.job(name, tasks[0].command, directory), array=tasks, array_cap=at_most)

    @property
    def work_directory(self) -> Path:
        """Return where ranks start. A `~` stays where it is another home on each node."""
        return Path(self.directory).resolve() if self.directory == "." else Path(self._at_home(self.directory))

    @property
    def interpreter(self) -> str:
        """Return the Python of the nodes."""
        return self._at_home(self.python)

    def _at_home(self, path: str) -> str:
        """Open a `~` where the nodes have the homes of this machine. Raises UserError where there is no such home."""
        home = find_backend(self.backend).home
        if not path.startswith("~") or home is Home.OF_EACH_NODE:
            return path
        if home is Home.NOBODYS:
            raise UserError(f"{path!r}: a container has no home of yours: write the whole path")
        try:
            return str(Path(path).expanduser())
        except RuntimeError:
            raise UserError(f"{path!r}: there is no such home on this machine: write the whole path") from None


def _owners(option: str) -> list[str]:
    """Return the backends that have an option of that name."""
    return [kind.name for kind in known_backends() if option in kind.options.model_fields]


def _no_user_error(read: Callable[[], T]) -> T:
    """Return what `read` does, and have a UserError be the problem of one key among others."""
    try:
        return read()
    except UserError as error:
        raise ValueError(str(error)) from None


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
    """Return the backend of a cluster."""
    kind = find_backend(cluster.backend)
    return open_scheduler(cluster) if isinstance(kind, Queued) else kind.open(cluster, Sharing())


def open_driver(cluster: ClusterConfig, sharing: Sharing = Sharing()) -> Driver:
    """Return the backend of a cluster whose jobs this process drives."""
    kind = find_backend(cluster.backend)
    assert isinstance(kind, Driven), f"the jobs of {kind.name} are not driven by a process of ours"
    return kind.open(cluster, sharing)


def open_scheduler(cluster: ClusterConfig) -> Scheduler:
    """Return the backend of a cluster that keeps jobs. Raises UserError for one whose jobs a process drives."""
    kind = find_backend(cluster.backend)
    if not isinstance(kind, Queued):
        raise UserError(f"a job on {kind.name} is known to the process that drives it alone")
    backend = kind.open(cluster)
    return backend if kind.arrays else OneByOne(backend)
