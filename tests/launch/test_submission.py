"""Clusters, submissions and their records, without starting anything."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from launch.backends import attached, registry
from launch.backends.cluster import load_cluster, open_backend
from launch.backends.overview import last_step, overview
from launch.backends.submission import prepare, write_config
from launch.job import JobSpec, JobState, Task
from trainer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs" / "run" / "tiny.yaml"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "configs" / "cluster").glob("*.yaml")))
def test_every_cluster_file_renders(name: str, tmp_path: Path) -> None:
    wanted = prepare(TINY, (), name, tmp_path)
    text = open_backend(wanted.cluster).render(wanted.spec)
    assert str(tmp_path / "tiny") in text
    assert not list(tmp_path.iterdir()), "rendering writes nothing"


def cluster(tmp_path: Path, text: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("backend: slrum\n", "'backend'.*given: 'slrum'"),
        ("backend: slurm\nnode: 2\n", r"unknown key 'node' \(did you mean 'nodes'\?\)"),
        ("nodes: 0\n", "'nodes'.*greater than 0"),
        ("backend: [\n", "line 2: not valid YAML"),
        ("- a\n", "expected a mapping"),
        ("!!python/object/apply:os.system ['touch x']\n", "not valid YAML"),
    ],
)
def test_a_bad_cluster_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_cluster(cluster(tmp_path, text))


def test_a_home_is_opened_where_nodes_have_the_homes_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for kind, home in (("slurm", "/home/me"), ("local", "/home/me"), ("ssh", "~")):
        found = load_cluster(cluster(tmp_path, f"backend: {kind}\npython: ~/venv/bin/python\ndirectory: ~/work\n"))
        assert (found.interpreter, str(found.work_directory)) == (f"{home}/venv/bin/python", f"{home}/work")
    for text, message in (
        ("backend: slurm\npython: ~nobody-here/p\n", "there is no such home"),
        ("backend: kubernetes\npython: ~/p\n", "a container has no home of yours"),
    ):
        with pytest.raises(UserError, match=message):
            _ = load_cluster(cluster(tmp_path, text)).interpreter


def test_an_unknown_cluster_names_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"there is no cluster 'slrm' in .*did you mean 'slurm'\?"):
        load_cluster("slrm")


def test_degrees_must_multiply_to_the_world(tmp_path: Path) -> None:
    path = cluster(tmp_path, "nodes: 1\nranks_per_node: 3\n")
    with pytest.raises(UserError, match="tensor 2 = 2 does not divide the world of 3 ranks"):
        prepare(TINY, ("parallel.tensor=2",), path, tmp_path)


@pytest.mark.parametrize("name", ["../../etc", "a/b", ".."])
def test_a_name_stays_below_the_runs(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot contain '/'"):
        prepare(TINY, (f"name={name}",), "local", tmp_path)


def test_a_directory_of_another_run_is_left_alone(tmp_path: Path) -> None:
    wanted = prepare(TINY, ("model.vocab_size=512",), "local", tmp_path)
    write_config(wanted, wanted.config)
    write_config(wanted, wanted.config)
    other = prepare(TINY, ("model.vocab_size=512", "seed=1"), "local", tmp_path)
    with pytest.raises(UserError, match=r"holds another run.*--set name=tiny-2"):
        write_config(other, other.config)
    (tmp_path / "tiny" / "status").write_text("done\n")
    with pytest.raises(UserError, match="this run is done"):
        write_config(wanted, wanted.config)


def test_records_are_found_by_id_name_and_directory(tmp_path: Path) -> None:
    tasks = tuple(Task(name, ("-m", "x"), tmp_path / "sweep" / name) for name in ("a", "b"))
    registry.record(JobSpec("sweep", (), tmp_path / "sweep", array=tasks), "7", cluster="slurm", backend="slurm")
    registry.record(JobSpec("run", ("-m", "x"), tmp_path / "run"), "8", cluster="slurm", backend="slurm")
    assert {row.job for row in registry.find(tmp_path)} == {"7_0", "7_1", "8"}
    assert registry.find_one(tmp_path, "7_1").name == "b"
    assert registry.find_one(tmp_path, "run").job == "8"
    assert registry.find_one(tmp_path, str(tmp_path / "run")).job == "8"
    with pytest.raises(UserError, match=r"no submitted run 'rnu' .*did you mean 'run'"):
        registry.find_one(tmp_path, "rnu")


def test_an_attached_job_is_as_alive_as_its_process(tmp_path: Path) -> None:
    row = registry.record(JobSpec("run", ("-m", "x"), tmp_path), attached.job_id(), cluster="local", backend="local")[0]
    (tmp_path / "status").write_text("running\n")
    assert attached.status(row).state is JobState.RUNNING
    gone = f"{socket.gethostname()}:{os.getpid()}:1"
    row = registry.record(JobSpec("run", ("-m", "x"), tmp_path), gone, cluster="local", backend="local")[0]
    assert attached.status(row).state is JobState.FAILED
    assert "is gone" in attached.status(row).reason
    with pytest.raises(UserError, match="does not run"):
        attached.cancel(row)
    with pytest.raises(UserError, match="was started on elsewhere: ask there"):
        attached.owner("elsewhere:1:1")


def test_a_thousand_jobs_cost_one_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub counts how often squeue is asked."""
    stub = tmp_path / "bin" / "squeue"
    stub.parent.mkdir()
    lines = "\n".join(f"{i}|RUNNING|0|None|n1|" for i in range(1000))
    (tmp_path / "answer").write_text(lines + "\n")
    stub.write_text(f'#!/bin/sh\necho x >>"{tmp_path}/asked"\ncat "{tmp_path}/answer"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    for i in range(1000):
        registry.record(JobSpec(f"r{i}", ("-m", "x"), tmp_path / f"r{i}"), str(i), cluster="slurm", backend="slurm")
    rows = overview(tmp_path)
    assert len(rows) == 1000 and {row.status.state for row in rows} == {JobState.RUNNING}
    assert (tmp_path / "asked").read_text() == "x\n"
    assert json.dumps([row.to_json() for row in rows])


def test_the_last_step_is_read_from_the_end(tmp_path: Path) -> None:
    assert last_step(tmp_path) is None
    lines = [json.dumps({"step": i, "pad": "x" * 100}) for i in range(1000)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 1000, "lo')
    assert last_step(tmp_path) == 999
