"""Failures on this machine: `escala jobs` and `escala logs`, asked afterwards by others, name cause and place."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from launch.cli import escala
from launch.cluster import attached, registry
from launch.cluster.config import load_cluster, open_backend
from launch.cluster.job import JobSpec, JobState
from launch.cluster.local.backend import LocalBackend
from launch.cluster.local.warm import RankPool
from launch.watch.diagnosis import diagnose
from launch.watch.rank_positions import positions
from launch.watch.traces import main_stack
from tests.launch.planted import AFTER_START, KINDS, Planted, name_of
from tests.launch.test_local import finish, until_log
from trainer.contract.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).parent / "programs" / "planted.py"
HOST = socket.gethostname()
SECRET = "planted-secret-7788"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    log = tmp_path_factory.mktemp("pool") / "rank_server.log"
    environment = {**os.environ, "PLANTED_API_KEY": SECRET}
    with LocalBackend(2, environment, preload=("torch", "torch.distributed"), log=log) as opened:
        yield opened


def asked(runs: Path, name: str) -> tuple[dict, str, str]:
    """Return what `escala jobs --json`, `escala jobs` and `escala logs` say of a run."""
    rows = CliRunner().invoke(escala, ["jobs", "--runs", str(runs), "--json"], catch_exceptions=False)
    (row,) = [row for row in json.loads(rows.output) if row["name"] == name]
    table = CliRunner().invoke(escala, ["jobs", "--runs", str(runs)], catch_exceptions=False)
    assert table.exit_code == 0
    try:
        said = CliRunner().invoke(
            escala, ["logs", name, "--runs", str(runs)], catch_exceptions=False, standalone_mode=False
        )
        logs = said.output
    except UserError as error:
        logs = str(error)
    return row, table.output, logs


def check(runs: Path, name: str, cause: str, place: str) -> None:
    row, table, logs = asked(runs, name)
    assert row["state"] == "failed"
    assert cause in row["reason"] and place in row["reason"], row["reason"]
    joined = "".join(table.split())
    assert "".join(place.split()) in joined, table
    assert cause in logs and place in logs, logs[-500:]
    said = CliRunner().invoke(escala, ["why", name, "--runs", str(runs)], catch_exceptions=False).output
    assert cause in said and place in said, said


def spec_of(planted: Planted, tmp_path: Path, **more: object) -> JobSpec:
    command = (str(PROGRAM), planted.how, str(planted.victim), str(tmp_path))
    return JobSpec(planted.how, command, tmp_path / "runs" / planted.how, ranks_per_node=2, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("planted", AFTER_START, ids=name_of)
def test_a_failure_of_a_rank_is_named(backend: LocalBackend, tmp_path: Path, planted: Planted) -> None:
    spec = spec_of(planted, tmp_path, environment={"PYTHONPATH": str(ROOT)})
    job = backend.submit(spec)
    registry.record(spec, attached.job_id(), cluster="local", backend="local")
    finish(backend, job)
    rank = 1 - planted.victim if planted.how == "timeout" else planted.victim
    check(tmp_path / "runs", planted.how, planted.cause, f"rank {rank} on {HOST}")
    told = diagnose(tmp_path / "runs" / planted.how)
    assert (told.cause, told.rank, told.host) == (KINDS[planted.how], planted.victim, HOST), told
    assert told.traceback and told.command.startswith("escala train ") and "--ranks 2" in told.command
    if planted.how == "timeout":  # the one that its peers waited for, where it stood still
        assert any("planted.py" in line and line.endswith(" in fail") for line in told.traceback), told
        assert any(line.startswith("rank 0: has ended all_reduce") for line in told.details), told
        # torch's recorder calls a wait that ran out of time ended, or not, as it comes
        assert any(
            line.startswith(("rank 1: waits in all_reduce", "rank 1: has ended all_reduce")) for line in told.details
        )
    assert [path for path in spec.run_dir.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def test_sigusr2_to_the_driver_asks_every_rank_where_it_is(backend: LocalBackend, tmp_path: Path) -> None:
    job = backend.submit(spec_of(Planted("none", "", victim=9), tmp_path, environment={"PYTHONPATH": str(ROOT)}))
    until_log(backend, job, "ready", 2)
    os.kill(os.getpid(), signal.SIGUSR2)
    logs = tmp_path / "runs" / "none" / "logs" / "1"
    for _ in range(300):
        if len(positions(logs)) == 2:
            break
        backend.wait(0.1)
    assert sorted(positions(logs)) == [0, 1] and backend.status([job])[job].state is JobState.RUNNING
    assert all("planted.py" in "".join(main_stack(logs / f"stacks_{rank}.txt")) for rank in (0, 1))
    backend.cancel(job)
    finish(backend, job)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("python: /nowhere/python", f"there is no interpreter /nowhere/python on {HOST}"),
        ("directory: /nowhere", f"there is no directory /nowhere on {HOST}"),
    ],
)
def test_what_is_not_here_is_refused_before_anything_starts(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(f"backend: local\n{text}\n")
    cluster = load_cluster(str(tmp_path / "c.yaml"))
    with pytest.raises(UserError, match=message):
        open_backend(cluster).rehearse(cluster.job("a", ("x",), tmp_path / "a"))
    assert not (tmp_path / "a").exists()


STAY = """
import signal, sys, time
if sys.argv[1] == "stay":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("stay", "signal SIGKILL: killed, for it was asked to end and did not"),
        ("go", "signal SIGTERM"),
    ],
)
def test_a_time_limit_is_the_reason_of_what_it_ends(tmp_path: Path, how: str, cause: str) -> None:
    (tmp_path / "stay.py").write_text(STAY)
    now = [0.0]
    with LocalBackend(1, preload=(), clock=lambda: now[0]) as backend:
        spec = JobSpec("a", (str(tmp_path / "stay.py"), how), tmp_path / "runs" / "a", time_limit=1)
        job = backend.submit(spec)
        registry.record(spec, attached.job_id(), cluster="local", backend="local")
        until_log(backend, job, "ready", 1)
        now[0] = 61.0  # the limit
        backend.wait(0.1)
        now[0] = 200.0  # the time to save
        finish(backend, job)
    check(tmp_path / "runs", "a", cause, f"the time limit of 1 min is over: rank 0 on {HOST}")


def test_the_end_of_the_rank_server_is_told_to_others(tmp_path: Path) -> None:
    (tmp_path / "stay.py").write_text(STAY)
    with LocalBackend(1, preload=()) as backend:
        spec = JobSpec("a", (str(tmp_path / "stay.py"), "go"), tmp_path / "runs" / "a")
        job = backend.submit(spec)
        registry.record(spec, attached.job_id(), cluster="local", backend="local")
        until_log(backend, job, "ready", 1)
        assert isinstance(backend.ranks.pool, RankPool) and backend.ranks.pool.server is not None
        backend.ranks.pool.server.kill()
        with pytest.raises(UserError, match="the rank server ended"):
            finish(backend, job)
    check(tmp_path / "runs", "a", "the rank server ended", f"on {HOST}")
