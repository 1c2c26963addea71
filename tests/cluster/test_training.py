"""The real trainer on a real Slurm and on SSH hosts: disturbed in the middle, and the losses of a run left alone."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from launch.cluster.job import JobSpec, JobState
from launch.cluster.local.backend import LocalBackend
from launch.cluster.slurm.backend import SlurmBackend
from launch.run.data_preparation import resolve
from tests.cluster.hosts import Hosts
from tests.cluster.slurm import Slurm, wait_until
from tests.cluster.test_slurm import ROOT, finish
from tests.cluster.test_ssh import drive, ended
from trainer.config.load import dump, run_from_values

STEPS = 1000  # ten seconds even on a quiet machine: time to be disturbed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one set lies that all runs read."""
    return tmp_path_factory.mktemp("data")


def write_run(root: Path, name: str, data: Path, steps: int = STEPS) -> JobSpec:
    """Lay a run of a few seconds into its directory."""
    values = {
        "name": name,
        "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "context_length": 64},
        "data": {
            "name": "small",
            "root": str(data),
            "sources": [{"path": "embedded", "max_bytes": "400k"}],
            "tokenizer": {"vocab_size": 512, "sample_bytes": "400k"},
            "held_out_fraction": 0.2,
        },
        "batch": {"tokens_per_step": 256},
        "steps": steps,
        "evaluation": {"tokens": "2k"},
        "checkpoint": {"every": "50 steps"},
        "tracking": {"log_every": "1 steps", "wandb": "disabled"},
        "device": "cpu",
    }
    config, _ = resolve(run_from_values(values, "test"))
    run_dir = root / name
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(dump(config))
    return JobSpec(
        name, ("-m", "trainer.train", "--run-dir", str(run_dir)), run_dir, environment={"OMP_NUM_THREADS": "1"}
    )


def losses(run_dir: Path) -> dict[int, float]:
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def resumed_at(run_dir: Path) -> int:
    """Return the step at which the newest attempt began."""
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    return [int(event["step"]) for event in events if event["event"] == "started"][-1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[int, float]:
    """The losses of two ranks on this machine that nobody disturbs."""
    quiet = replace(write_run(tmp_path_factory.mktemp("quiet"), "quiet", data), ranks_per_node=2)
    with LocalBackend(2, threads=1) as local:
        name = local.submit(quiet)
        while not local.status([name])[name].state.final:
            local.wait(1.0)
        assert local.status([name])[name].state is JobState.DONE, "\n".join(local.logs(name))
    assert len(losses(quiet.run_dir)) == STEPS
    return losses(quiet.run_dir)


def wait_for_step(spec: JobSpec, step: int) -> None:
    wait_until(lambda: max(losses(spec.run_dir), default=0) > step, 240, f"step {step}")
    assert max(losses(spec.run_dir)) < STEPS, "too fast to be disturbed"


def test_a_preempted_two_node_run_ends_with_the_loss_of_an_undisturbed_one(
    slurm: Slurm, tmp_path: Path, data: Path, undisturbed: dict[int, float]
) -> None:
    backend = SlurmBackend(python=sys.executable, directory=ROOT)
    spec = replace(write_run(tmp_path, "preempted", data), nodes=2)
    job = backend.submit(spec)
    wait_for_step(spec, 20)
    slurm.call("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    assert finish(backend, job).state is JobState.DONE
    assert (spec.run_dir / "logs" / "2").is_dir(), "it was never preempted"
    assert losses(spec.run_dir) == undisturbed


def test_a_run_whose_node_died_goes_on_elsewhere_with_the_same_loss(
    slurm: Slurm, tmp_path: Path, data: Path, undisturbed: dict[int, float]
) -> None:
    backend = SlurmBackend(python=sys.executable, directory=ROOT)
    spec = replace(write_run(tmp_path, "lost", data), ranks_per_node=2)
    job = backend.submit(spec)
    wait_for_step(spec, 120)
    (node,) = slurm.nodes_of(job)
    with slurm.crashed(node):
        assert finish(backend, job).state is JobState.DONE
        assert slurm.nodes_of(job) != [node]
    assert resumed_at(spec.run_dir) >= 100, "it went on from a checkpoint"
    assert losses(spec.run_dir) == undisturbed


def test_a_run_whose_cable_was_cut_goes_on_with_the_same_loss(
    hosts: Hosts, tmp_path: Path, data: Path, undisturbed: dict[int, float]
) -> None:
    """The lost host is named within `lost_after` (6 s) and a round of polling."""
    spec = write_run(tmp_path, "cut", data)
    driver = drive(hosts, spec.run_dir, *spec.command, lost_after=6)
    wait_for_step(spec, 120)
    hosts.cut("h2")
    cut = time.monotonic()
    try:
        said = next(line for line in driver.stdout or () if "was lost" in line)
        named = time.monotonic() - cut
        wait_until(lambda: not hosts.processes("h2", "trainer.train"), 120, "the stranded rank to end")
    finally:
        hosts.heal("h2")
    assert "h2 was lost" in said and named < 20
    out, status = ended(driver, 300)
    assert status["state"] == "done", out
    assert losses(spec.run_dir) == undisturbed
