"""The real trainer on a real Slurm: two nodes, preempted in the middle, and the loss of a run that was left alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from launch.backends.local import LocalBackend
from launch.backends.slurm import SlurmBackend
from launch.data_preparation import resolve
from launch.job import JobSpec, JobState
from tests.cluster.slurm import Slurm, wait_until
from tests.cluster.test_slurm import ROOT, finish
from trainer.config.load import dump, run_from_values

STEPS = 150


def write_run(root: Path, name: str) -> JobSpec:
    """Lay a run of a few seconds into its directory. Both runs read one prepared set."""
    values = {
        "name": name,
        "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "context_length": 64},
        "data": {
            "name": "small",
            "root": str(root / "data"),
            "sources": [{"path": "embedded", "max_bytes": "400k"}],
            "tokenizer": {"vocab_size": 512, "sample_bytes": "400k"},
            "held_out_fraction": 0.2,
        },
        "batch": {"tokens_per_step": 256},
        "steps": STEPS,
        "evaluation": {"tokens": "2k"},
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


@pytest.mark.slow
def test_a_preempted_two_node_run_ends_with_the_loss_of_an_undisturbed_one(slurm: Slurm, tmp_path: Path) -> None:
    from dataclasses import replace

    backend = SlurmBackend(python=sys.executable, directory=ROOT)
    spec = replace(write_run(tmp_path, "preempted"), nodes=2)
    job = backend.submit(spec)
    wait_until(lambda: max(losses(spec.run_dir), default=0) > 20, 150, "the first steps")
    assert max(losses(spec.run_dir)) < STEPS, "too fast to be preempted"
    slurm.call("sbatch", "--partition=urgent", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    assert finish(backend, job, 240).state is JobState.DONE
    assert (spec.run_dir / "logs" / "2").is_dir(), "it was never preempted"

    quiet = replace(write_run(tmp_path, "quiet"), ranks_per_node=2)
    with LocalBackend(2, threads=1) as local:
        name = local.submit(quiet)
        while not local.status([name])[name].state.final:
            local.wait(1.0)
        assert local.status([name])[name].state is JobState.DONE, "\n".join(local.logs(name))
    assert losses(spec.run_dir) == losses(quiet.run_dir)
    assert len(losses(quiet.run_dir)) == STEPS
