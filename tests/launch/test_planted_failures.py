"""Failures on this machine: `escala jobs` and `escala logs`, asked afterwards by others, name cause and place."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from launch.backends import attached, registry
from launch.backends.local import LocalBackend
from launch.cli import escala
from launch.job import JobSpec
from tests.launch.planted import AFTER_START, Planted, name_of
from tests.launch.test_local import finish
from trainer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).parent / "programs" / "planted.py"
HOST = socket.gethostname()


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    log = tmp_path_factory.mktemp("pool") / "rank_server.log"
    with LocalBackend(2, preload=("torch", "torch.distributed"), log=log) as opened:
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
