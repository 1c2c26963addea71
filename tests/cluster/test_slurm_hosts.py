"""Slurm as its users find it: nodes that know only names or call themselves loopback, a policy on the environment,
banners, a shell inside another job, two users of one directory, ids that begin anew.

Six clusters of five properties: every two values of any two properties occur together (a pairwise covering array).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch.cluster import process, registry
from launch.cluster.job import JobSpec, JobState
from launch.cluster.slurm.backend import SlurmBackend
from tests.cluster import slurm_hosts
from tests.cluster.conftest import start_or_skip
from tests.cluster.slurm import wait_until
from tests.cluster.slurm_hosts import SlurmHosts
from tests.cluster.test_slurm import ROOT, counter, finish
from tests.cluster.test_training import losses, write_run

STEPS = 200
BANNER = '#!/bin/sh\nprintf "*** Welcome to the lab ***\\n2026\\n"\n{} "$@" || exit\necho "You have 1000 hours left"\n'


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SlurmHosts]]:
    """Start a cluster with the properties given; its login node is where Slurm's programs run."""
    if reason := slurm_hosts.missing():
        pytest.skip(f"no Slurm over hosts here: {reason}")
    started: list[SlurmHosts] = []

    def start(**properties: object) -> SlurmHosts:
        root = Path(tempfile.mkdtemp(prefix="escala-slurm-"))  # munge refuses a socket that others cannot reach
        started.append(SlurmHosts(root, nodes=2, **properties))  # type: ignore[arg-type]
        start_or_skip(started[-1])
        monkeypatch.setenv("SLURM_CONF", str(started[-1].conf))
        return started[-1]

    yield start
    for one in started:
        one.stop()
        shutil.rmtree(one.root, ignore_errors=True)


def backend_on(cluster: SlurmHosts, *, sbatch: str = "sbatch", **more: object) -> SlurmBackend:
    """Return a backend whose programs run on the login node."""

    def call(argv: list[str], **options: object) -> str:
        words = [sbatch if argv[0] == "sbatch" else argv[0], *argv[1:]]
        return process.call(cluster.hosts.command("h1", *words), **options)  # type: ignore[arg-type]

    values = {"python": sys.executable, "directory": ROOT, **more}
    return SlurmBackend(call=call, **values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of two ranks on this machine that nobody disturbs."""
    from launch.cluster.local.backend import LocalBackend

    root = tmp_path_factory.mktemp("quiet")
    spec = replace(write_run(root, "quiet", root / "data", steps=STEPS), ranks_per_node=2)
    with LocalBackend(2, threads=1) as local:
        name = local.submit(spec)
        while not local.status([name])[name].state.final:
            local.wait(1.0)
    assert len(losses(spec.run_dir)) == STEPS
    return losses(spec.run_dir)


CASES = ["00000", "01111", "10111", "11011", "11101", "11110"]
PREEMPTED = CASES[1::2]  # a second attempt costs half a minute


@pytest.mark.parametrize("case", CASES)
def test_two_nodes_meet_and_end_with_the_losses_of_an_undisturbed_run(
    cluster: Callable[..., SlurmHosts],
    undisturbed: dict[int, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    node_addr, loopback_name, export_none, inside_a_job, banner = (digit == "1" for digit in case)
    one = cluster(node_addr=node_addr, loopback_name=loopback_name)
    monkeypatch.setenv("LAB_TOKEN", "s3cret")
    if export_none:
        monkeypatch.setenv("SBATCH_EXPORT", "NONE")
        monkeypatch.setenv("SLURM_EXPORT_ENV", "NONE")
    if inside_a_job:
        for name, value in (("JOB_ID", "1"), ("ARRAY_TASK_ID", "7"), ("CPU_BIND", "map_cpu:0"), ("NNODES", "1")):
            monkeypatch.setenv(f"SLURM_{name}", value)
    sbatch = "sbatch"
    if banner:
        sbatch = str(tmp_path / "sbatch")
        Path(sbatch).write_text(BANNER.format(shutil.which("sbatch")))
        Path(sbatch).chmod(0o755)
    backend = backend_on(one, sbatch=sbatch, secrets=("LAB_TOKEN",))
    spec = replace(write_run(tmp_path, "run", tmp_path / "data", steps=STEPS), nodes=2)
    mark = 'printf "%s\\n" "${{LAB_TOKEN:-none}} ${{SLURM_CPU_BIND:-free}} ${{SLURM_ARRAY_TASK_ID:-no array}}" >{}'
    spec = replace(spec, extras={"setup": [mark.format(tmp_path / "seen")]})
    job = backend.submit(spec)
    if case in PREEMPTED:
        wait_until(lambda: max(losses(spec.run_dir), default=0) > 20, 240, "step 20")
        one.call("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    status = finish(backend, job)
    assert status.state is JobState.DONE, status
    assert losses(spec.run_dir) == undisturbed
    assert (spec.run_dir / "logs" / "2").is_dir() == (case in PREEMPTED)
    assert (tmp_path / "seen").read_text() == "s3cret free no array\n"
    met = json.loads((spec.run_dir / "logs" / "1" / "meeting.json").read_text())
    assert met["addresses"][0].startswith("192.0.2."), met


def as_nobody(one: SlurmHosts, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `escala` on the login node as another user of this machine."""
    environment = {**one.environment, "HOME": "/tmp", "PATH": os.environ["PATH"]}
    become = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable]
    if one.login(*become, "-c", "import launch", cwd=ROOT).returncode != 0:
        pytest.skip("another user cannot run this interpreter")
    return one.login(*become, "-m", "launch", *words, cwd=ROOT, env=environment)


def test_users_clusters_and_ids_are_told_apart(
    cluster: Callable[..., SlurmHosts], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = cluster(node_addr=False, loopback_name=True)
    backend = backend_on(one)
    runs = one.root / "runs"  # which the other user may enter, and which goes when all jobs have ended
    runs.mkdir()
    spec = counter(runs, "shared", 3000, nodes=1)
    (row,) = submitted(backend, spec)
    wait_until(lambda: (spec.run_dir / "done_0").exists(), 120, "the first steps")
    listed = json.loads(as_nobody(one, "jobs", "--runs", str(runs), "--json").stdout)
    assert [(r["job"], r["state"]) for r in listed] == [(row.job, "running")], "another user sees it run"
    refused = as_nobody(one, "cancel", "shared", "--runs", str(runs))
    assert refused.returncode == 2 and "denied" in refused.stderr, refused.stderr
    one.call("scancel", row.job)
    wait_until(lambda: backend.status([row.job])[row.job].state is JobState.CANCELLED, 60, "the end")
    one.begin_ids_anew()
    other = counter(runs, "other", 3000, nodes=1)
    (later,) = submitted(backend, other)
    assert later.job == row.job, "the id is used again"
    listed = json.loads(escala(one, "jobs", "--runs", str(runs), "--json").stdout)
    states = {r["name"]: (r["state"], r["reason"]) for r in listed}
    assert states["other"][0] in ("pending", "running"), states
    assert states["shared"][0] == "cancelled" and "is now that of other" in states["shared"][1], states
    done = escala(one, "cancel", "shared", "--runs", str(runs))
    assert done.returncode == 2 and "Nothing was cancelled" in done.stderr
    assert not backend.status([later.job])[later.job].state.final, "the other run goes on"
    one.end_controller()
    away = escala(one, "jobs", "--runs", str(runs), "--json")
    assert away.returncode == 0, away.stderr
    assert {r["state"] for r in json.loads(away.stdout)} == {"unknown"}


def submitted(backend: SlurmBackend, spec: JobSpec) -> list[registry.Submitted]:
    job = backend.submit(spec)
    settings = {"backend": "slurm"}
    return registry.record(spec, job, cluster="lab", backend="slurm", identity=backend.identity(job), settings=settings)


def escala(one: SlurmHosts, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `escala` on the login node."""
    return one.login(sys.executable, "-m", "launch", *words, cwd=ROOT)


def test_an_array_above_the_limit_and_a_run_that_waits_for_another(
    cluster: Callable[..., SlurmHosts], tmp_path: Path
) -> None:
    """MaxArraySize is 4 here."""
    from launch.cluster.job import Task

    one = cluster(node_addr=True, loopback_name=False)
    backend = backend_on(one)
    program = ROOT / "tests" / "launch" / "programs" / "rank.py"
    tasks = tuple(Task(f"t{i}", (str(program), "exit", "0"), tmp_path / f"t{i}") for i in range(6))
    spec = JobSpec(
        "many", (), tmp_path / "many", array=tasks, array_cap=3, extras={"extra": {"comment": 'a "b" # $(c)'}}
    )
    job = backend.submit(spec)
    assert len(job.split(",")) == 2
    last = job.split(",")[-1]
    after = JobSpec("after", (str(program), "exit", "0"), tmp_path / "after", after=(last,))
    then = backend.submit(after)
    assert "Dependency=afterok" in one.call("scontrol", "-o", "show", "job", then)
    told = one.call("scontrol", "-o", "show", "job", last)
    assert 'Comment=a "b" # $(c)' in told and "Dependency=afterany" in told
    assert finish(backend, then).state is JobState.DONE
    assert all((task.run_dir / "logs" / "1").is_dir() for task in tasks)
    rows = registry.record(spec, job, cluster="lab", backend="slurm", identity=backend.identity(job))
    states = backend.status([row.job for row in rows])
    assert {status.state for status in states.values()} == {JobState.DONE}


def test_a_peer_that_does_not_come_is_named(cluster: Callable[..., SlurmHosts], tmp_path: Path) -> None:
    """On h3 Python takes longer to start than the others wait."""
    one = cluster(node_addr=True, loopback_name=False)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$SLURMD_NODENAME" != h3 ] || sleep 20\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    backend = backend_on(one, python=str(python))
    spec = JobSpec("apart", ("-m", "nothing"), tmp_path / "apart", nodes=2, extras={"join_seconds": 5})
    status = finish(backend, backend.submit(spec), 120)
    assert status.state is JobState.FAILED
    assert "h3 did not come to h2" in status.reason, status.reason
