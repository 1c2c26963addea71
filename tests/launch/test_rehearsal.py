"""What a cluster would refuse is said before data are prepared, which may take hours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from launch.cluster.job import JobSpec
from launch.cluster.slurm.backend import SlurmBackend
from tests.conftest import ROOT
from tests.launch.test_cli import escala
from tests.launch.test_sweep_cells import RUN
from trainer.contract.errors import UserError

REFUSED = "sbatch: error: invalid partition specified: trian\nallocation failure: Invalid partition name specified\n"
NO_NODES = "allocation failure: Requested node configuration is not available\n"


def program(directory: Path, name: str, text: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a run, a sweep and a cluster of each kind, where nothing was prepared. Programs are in `bin`."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "bin").mkdir()
    base = {"nodes": 1, "ranks_per_node": 2}
    clusters = {
        "slurm": {"options": {"partition": "trian"}},
        "ssh": {"options": {"hosts": ["far"]}},
        "kubernetes": {"container": "image"},
    }
    for backend, more in clusters.items():
        (tmp_path / f"{backend}.yaml").write_text(yaml.safe_dump({"backend": backend, **base, **more}))
    sweep = {"name": "s", "ranks": 2, "run": {**RUN, "data": "embedded"}, "vary": {"seed": [0, 1]}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return tmp_path


@pytest.mark.parametrize("command", [["submit", "configs/run/tiny.yaml"], ["sweep", "submit", "sweep.yaml"]], ids=str)
@pytest.mark.parametrize(
    ("backend", "programs", "sentence"),
    [
        ("slurm", {}, "sbatch is not installed or not on PATH"),
        ("slurm", {"sbatch": f"printf '{REFUSED}' >&2; exit 1", "sinfo": "echo train"}, "no partition 'trian' (it has"),
        ("ssh", {"ssh": "echo 'ssh: connect to host far port 22: No route to host' >&2; exit 255"}, "far cannot be re"),
        ("kubernetes", {}, "no Kubernetes cluster is configured here"),
    ],
)
def test_what_is_missing_is_said_before_data_are_prepared(
    place: Path, command: list[str], backend: str, programs: dict[str, str], sentence: str
) -> None:
    if backend == "kubernetes":
        pytest.importorskip("kubernetes.client")
    for name, text in programs.items():
        program(place / "bin", name, text)
    done = escala(*command, "--cluster", f"{backend}.yaml", cwd=place, path=str(place / "bin"))
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in " ".join(done.stderr.split())
    assert not (place / "data").exists()


@pytest.mark.parametrize(("away", "refused"), [("n7\n", False), ("", True)])
def test_nodes_that_are_down_are_waited_for_and_missing_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, away: str, refused: bool
) -> None:
    """sbatch --test-only says the same of both; a submission waits for the one and may wait for the other for ever."""
    program(tmp_path, "sbatch", f"printf '{NO_NODES}' >&2; exit 1")
    program(tmp_path, "sinfo", f'echo "$*" >"{tmp_path}/asked"; printf "{away}"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    backend = SlurmBackend(python="python3", directory=tmp_path)
    spec = JobSpec("big", ("-m", "x"), tmp_path / "run", nodes=50, extras={"partition": "train"})
    if refused:
        with pytest.raises(UserError, match=r"'big': Requested node configuration is not available: 50 nodes"):
            backend.rehearse(spec)
    else:
        backend.rehearse(spec)
    assert "--partition=train" in (tmp_path / "asked").read_text()
    assert not (tmp_path / "run").exists()


def test_a_partition_that_exists_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "sbatch", "echo 'allocation failure: Required partition not available (inactive)' >&2; exit 1")
    program(tmp_path, "sinfo", "echo train")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    spec = JobSpec("late", ("-m", "x"), tmp_path / "run", extras={"partition": "train"})
    with pytest.raises(UserError, match=r"refused job 'late': Required partition not available \(inactive\); nothing"):
        SlurmBackend(python="python3", directory=tmp_path).rehearse(spec)
