"""Backends by name: what each says of itself, whose option is whose, and what a scheduler without arrays is spared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from launch.cluster import backends
from launch.cluster.backend import Driven, Queued
from launch.cluster.backends import BACKENDS, find_backend, is_driven, queued
from launch.cluster.config import load_cluster, open_driver, open_scheduler, read_cluster
from launch.cluster.job import JobIdentity, JobSpec, JobState, JobStatus, Task
from launch.cluster.one_by_one import OneByOne
from launch.cluster.preflight.nodes import ask
from launch.commands.keys import describe
from trainer.contract.errors import UserError


def test_each_is_found_under_its_own_name() -> None:
    assert {name: (find_backend(name).name, type(find_backend(name))) for name in BACKENDS} == {
        "local": ("local", Driven),
        "ssh": ("ssh", Driven),
        "slurm": ("slurm", Queued),
        "kubernetes": ("kubernetes", Queued),
        "accelerate": ("accelerate", Queued),
    }
    with pytest.raises(UserError, match=r"there is no backend 'slrum' \(did you mean 'slurm'\?\)"):
        find_backend("slrum")
    assert not is_driven("of-elsewhere") and queued("of-elsewhere") is None, "a record may name one"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no.such.module:X", r"backend 'added' cannot be loaded from no\.such\.module:X \(No module named 'no'\)"),
        ("launch.cluster.job:JobSpec", "launch.cluster.job:JobSpec is neither a Driven nor a Queued"),
    ],
)
def test_a_package_that_does_not_hold_is_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    monkeypatch.setattr(backends, "_added", lambda: {"added": EntryPoint("added", value, backends.GROUP)})
    with pytest.raises(UserError, match=message):
        find_backend("added")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backend: slrum\n", r"'backend': there is no backend 'slrum' \(did you mean 'slurm'\?\)"),
        ("backend: slurm\noptions: {partitoin: a}\n", r"slurm: unknown key 'partitoin' \(did you mean 'partition'\?\)"),
        ("options: {partition: a}\n", "'partition' is an option of slurm, and `backend` is local: leave it out"),
        ("backend: ssh\noptions: {gpus_per_node: 8}\n", "'gpus_per_node' is an option of slurm and kubernetes, and"),
        (
            "backend: kubernetes\noptions: {exclusive: true}\n",
            "'exclusive' is an option of slurm and ssh, and `backend` is kubernetes: leave it out",
        ),
        ("backend: slurm\nsignal_seconds: 90\n", "'signal_seconds' is an option of slurm: write it under `options`"),
        ("backend: slurm\npartiton: a\n", r"unknown key 'partiton' \(did you mean 'partition'\?\)"),
        ("backend: slurm\noptions: {join_seconds: 0}\n", "slurm: 'join_seconds': input should be greater than 0"),
        (
            "backend: kubernetes\noptions: {tolerations: [{effect: Never}]}\n",
            r"kubernetes: 'tolerations\.0\.effect': input should be 'NoSchedule', .*\(given: 'Never'\)",
        ),
        ("backend: ssh\ncontainer: escala:1\n", "`container` has no effect on ssh, which starts ranks without one"),
        ("mounts: [{source: /a, target: /b}]\n", "`mounts` has no effect on local"),
    ],
)
def test_what_a_backend_does_not_know_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        load_cluster(str(file))
    assert str(file) in str(refused.value)


def test_every_option_of_every_backend_is_listed_with_its_meaning() -> None:
    rows = describe("cluster")
    options = [row for row in rows if row["key"].startswith("options.")]
    listed = {(row["meaning"].partition(":")[0], row["key"].split(".")[1].removesuffix("[]")) for row in options}
    assert listed == {(name, key) for name in BACKENDS for key in find_backend(name).options.model_fields}
    assert [row["key"] for row in rows if not row["meaning"].rpartition(": ")[2]] == []


def test_a_job_that_a_process_drives_has_no_scheduler() -> None:
    with pytest.raises(UserError, match="a job on local is known to the process that drives it alone"):
        open_scheduler(read_cluster({"backend": "local"}, "a record"))
    with pytest.raises(AssertionError, match="slurm are not driven"):
        open_driver(read_cluster({"backend": "slurm"}, "a record"))


def test_nodes_that_cannot_be_asked_are_said_to_be(tmp_path: Path) -> None:
    cluster = read_cluster({"backend": "kubernetes", "directory": "/w", "python": "p", "container": "i"}, "x")
    with pytest.raises(UserError, match="cannot ask the nodes of a kubernetes cluster: submit a small run instead"):
        ask(cluster, cluster.job("preflight", ("x",), tmp_path), tmp_path)


class Single:
    """A scheduler that takes one run at a time, and refuses one of them."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.jobs: list[str] = []
        self.ended: list[str] = []

    def render(self, spec: JobSpec) -> str:
        assert not spec.array
        return f"{spec.name} {' '.join(spec.command)} {spec.run_dir}\n"

    def rehearse(self, spec: JobSpec) -> None:
        self.render(spec)

    def submit(self, spec: JobSpec) -> str:
        if spec.name == self.refused:
            raise UserError(f"no room for {spec.name}")
        self.jobs.append(self.render(spec))
        return f"j{len(self.jobs)}"

    def identity(self, job: str) -> JobIdentity:
        return JobIdentity(name=job)

    def adopt(self, job: str, run_dirs: tuple[Path, ...], identity: JobIdentity) -> None: ...

    def status(self, ids: Sequence[str]) -> dict[str, JobStatus]:
        return {job: JobStatus(JobState.RUNNING) for job in ids}

    def logs(self, job: str, rank: int | None = None, follow: bool = False) -> Iterator[str]:
        yield job

    def batch_lines(self, job: str) -> Iterator[str] | None:
        return None

    def cancel(self, *jobs: str) -> None:
        self.ended += jobs


def sweep(**more: int) -> JobSpec:
    tasks = tuple(Task(name, ("-m", name), Path("/r") / name) for name in "abc")
    return JobSpec("sweep", (), Path("/r"), array=tasks, **more)  # type: ignore[arg-type]


def test_without_arrays_each_run_is_a_job() -> None:
    inner = Single()
    one = OneByOne(inner)
    job = one.submit(sweep())
    assert job == "j1,j2,j3" and one.render(sweep()) == "".join(inner.jobs)
    assert inner.jobs == ["a -m a /r/a\n", "b -m b /r/b\n", "c -m c /r/c\n"]
    assert one.identity(job).name == "j1"
    assert Queued.task_ids(sweep(), job) == ["j1", "j2", "j3"]
    with pytest.raises(UserError, match="nothing holds its runs to 2 at a time"):
        one.submit(sweep(array_cap=2))


def test_what_was_submitted_before_a_refusal_is_taken_back() -> None:
    inner = Single(refused="c")
    with pytest.raises(UserError, match=r"^no room for c$"):
        OneByOne(inner).submit(sweep())
    assert inner.ended == ["j1", "j2"]

    class Deaf(Single):
        def cancel(self, *jobs: str) -> None:
            raise UserError("no answer")

    with pytest.raises(UserError, match=r"no room for c; still queued, perhaps: j1, j2 \(no answer\)"):
        OneByOne(Deaf(refused="c")).submit(sweep())
