"""The backend of docs/extending.md, installed as another package would be: nothing of Escala knows its name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.e2e.ranks import PATIENCE, configuration
from trainer.config.load import dump
from trainer.contract.run_dir import RunDir, Status

pytestmark = pytest.mark.e2e
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## A backend") :]
(CODE,) = re.findall(r"```python\n(.*?)```", SECTION[: SECTION.index("\n## ")], flags=re.DOTALL)
Escala = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def escala(tmp_path: Path) -> Escala:
    """Return the command in an environment in which a package adds the backend."""
    package = tmp_path / "site" / "through-1.0.dist-info"
    package.mkdir(parents=True)
    (tmp_path / "site" / "through.py").write_text(CODE)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: through\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[escala.backends]\nthrough = through:THROUGH\n")
    (tmp_path / "c.yaml").write_text("backend: through\nranks_per_node: 2\noptions: {command: [nice, -n, '0']}\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launch", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    return run


def test_its_options_are_printed_and_checked(escala: Escala, tmp_path: Path) -> None:
    said = json.loads(escala("keys", "--of", "cluster", "--json").stdout)
    rows = {row["key"]: row for row in said}
    assert rows["backend"]["values"] == "local | slurm | ssh | kubernetes | accelerate | through"
    assert rows["options.command"]["meaning"] == "through: the words before `python`"
    (tmp_path / "typo.yaml").write_text("backend: through\noptions: {comand: [nice]}\n")
    refused = escala("render", "configs/run/tiny.yaml", "--cluster", str(tmp_path / "typo.yaml"))
    assert refused.returncode == 2 and "through: unknown key 'comand' (did you mean 'command'?)" in refused.stderr
    (tmp_path / "many.yaml").write_text("backend: through\ncontainer: escala:1\n")
    refused = escala("render", "configs/run/tiny.yaml", "--cluster", str(tmp_path / "many.yaml"))
    assert refused.returncode == 2 and "`container` has no effect on through" in refused.stderr
    assert "through" in escala("clusters", str(tmp_path / "c.yaml")).stdout


def test_it_trains_a_run_and_ends_another(escala: Escala, tmp_path: Path, prepared: Path) -> None:
    where = ("--cluster", str(tmp_path / "c.yaml"), "--runs", str(tmp_path / "runs"))

    def submit(name: str, steps: int) -> str:
        config = tmp_path / f"{name}.yaml"
        config.write_text(dump(configuration(prepared, steps, name=name)))
        done = escala("submit", str(config), *where, "--json")
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["job"])

    short = submit("short", 6)
    assert wait(escala, tmp_path, "short")["state"] == "done"
    assert "loss" in escala("logs", short, "--runs", str(tmp_path / "runs")).stdout
    long = submit("long", 100_000)
    again = escala("submit", str(tmp_path / "long.yaml"), *where)
    assert again.returncode == 2 and f"long is running as through job {long}" in again.stderr
    metrics = tmp_path / "runs" / "long" / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert escala("cancel", "long", "--runs", str(tmp_path / "runs")).returncode == 0
    assert wait(escala, tmp_path, "long")["state"] == "preempted", "its ranks saved first"
    deadline = time.monotonic() + PATIENCE  # the last words of a run come before the ends of its processes
    while str(tmp_path) in processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert str(tmp_path) not in processes(), "no process is left"


def processes() -> str:
    """Return the command lines of all processes."""
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def wait(escala: Escala, tmp_path: Path, name: str) -> dict[str, str]:
    """Return how a run ended, as `escala jobs` says it. Asking costs a process, so its own word is awaited first."""
    deadline = time.monotonic() + PATIENCE
    status = RunDir(tmp_path / "runs" / name).read_status
    while status() in (None, Status.PENDING, Status.RUNNING) and time.monotonic() < deadline:
        time.sleep(0.1)
    while True:
        (row,) = json.loads(escala("jobs", name, "--runs", str(tmp_path / "runs"), "--json").stdout)
        if row["state"] != "running" or time.monotonic() > deadline:
            return dict(row)
        time.sleep(0.2)


def test_a_sweep_is_as_many_jobs_as_it_has_cells(escala: Escala, tmp_path: Path, prepared: Path) -> None:
    """It has no arrays, so each cell is a job of its own."""
    run = configuration(prepared, 6).model_dump(mode="json", exclude={"name"}, exclude_unset=True)
    sweep = {"name": "pair", "ranks": 2, "run": run, "vary": {"seed": [1, 2]}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    words = (str(tmp_path / "sweep.yaml"), "--runs", str(tmp_path / "runs"))
    shown = escala("sweep", "submit", *words, "--cluster", str(tmp_path / "c.yaml"), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert sum(line.startswith("nice -n 0 ") for line in shown.stdout.splitlines()) == 2
    capped = escala("sweep", "submit", *words, "--cluster", str(tmp_path / "c.yaml"), "--dry-run", "--at-most", "1")
    assert capped.returncode == 2 and "nothing holds its runs to 1 at a time" in capped.stderr
