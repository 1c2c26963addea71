"""`escala submit` with a Slurm that pretends: once, not twice, and again when told to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from launch.commands.logs import logs
from launch.commands.render import render
from launch.commands.submit import submit
from launch.run import data_preparation
from tests.conftest import ROOT
from trainer.contract.errors import UserError

PROGRAMS = {
    "sbatch": 'case "$*" in *--test-only*) exit;; esac\necho "$*" >>"$ROOT/asked"; cat >"$ROOT/script"; echo 12',
    "squeue": 'cat "$ROOT/queue" 2>/dev/null',
    "scontrol": "exit 0",
    "sacct": "exit 1",
    "scancel": 'echo "$*" >>"$ROOT/cancelled"',
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data_preparation, "resolve", lambda run: (run, SimpleNamespace(tokens=lambda split: 10**7)))
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("ROOT", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "k")
    (tmp_path / "c.yaml").write_text("backend: slurm\nranks_per_node: 2\nsecrets: [WANDB_API_KEY]\ntime_limit: 60\n")
    return tmp_path


def run(place: Path, *words: str) -> Result:
    tiny = str(ROOT / "configs" / "run" / "tiny.yaml")
    fixed = [tiny, "--cluster", str(place / "c.yaml"), "--runs", str(place / "runs"), "--set", "model.vocab_size=512"]
    return CliRunner().invoke(submit, [*fixed, *words])


def test_a_running_run_is_replaced_only_when_told_to(place: Path) -> None:
    first = run(place, "--json")
    assert first.exit_code == 0, (first.output, first.exception)
    assert json.loads(first.stdout)["job"] == "12"
    kept = json.loads((place / "runs" / "tiny" / "job.json").read_text())
    assert kept["settings"]["ranks_per_node"] == 2 and kept["identity"]["name"] == "tiny"
    assert (place / "asked").read_text() == "--parsable --export=ALL\n"
    (place / "queue").write_text("12|RUNNING|0|None|n1|\n")
    again = run(place)
    assert isinstance(again.exception, UserError) and "tiny is running as slurm job 12" in str(again.exception)
    assert not (place / "cancelled").exists() and len((place / "asked").read_text().splitlines()) == 1
    replaced = run(place, "--replace")
    assert replaced.exit_code == 0, replaced.exception
    assert (place / "cancelled").read_text() == "12\n" and "ended slurm job 12" in replaced.stdout
    (place / "runs" / "tiny" / "status").write_text("preempted\n")
    (place / "queue").write_text("12|FAILED|19200|None|n1|\n")
    assert run(place).exit_code == 0, "it goes on where it stopped"
    assert (place / "runs" / "tiny" / "status").read_text() == "pending\n"


def test_a_run_waits_for_the_one_that_is_named(place: Path) -> None:
    assert run(place).exit_code == 0
    (place / "queue").write_text("12|RUNNING|0|None|n1|\n")
    assert run(place, "--set", "name=then", "--after", "tiny").exit_code == 0
    assert "#SBATCH --dependency=afterok:12\n" in (place / "script").read_text()


def test_a_missing_secret_is_refused_before_anything(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    done = run(place)
    assert isinstance(done.exception, UserError) and "WANDB_API_KEY: named under `secrets`" in str(done.exception)
    assert not (place / "asked").exists() and not (place / "runs").exists()


def test_gpus_that_nobody_asks_for_are_warned_about(place: Path) -> None:
    (place / "c.yaml").write_text("backend: slurm\nranks_per_node: 8\ngpu: H100-SXM\ntime_limit: 60\n")
    words = [str(ROOT / "configs" / "run" / "tiny.yaml"), "--cluster", str(place / "c.yaml"), "--runs", str(place)]
    done = CliRunner().invoke(render, words)
    assert "warning: 8 ranks a node train on H100-SXM" in done.stderr and "#SBATCH" in done.stdout


@pytest.mark.parametrize(
    ("backend", "options", "words"),
    [
        ("slurm", "gres: gpu:a100:4", "8 ranks share 4 GPUs"),
        ("slurm", "gres: gpu", "8 ranks share 1 GPUs"),
        ("slurm", "gres: gpu:8", ""),
        ("slurm", "gres: 'lustre:1,gpu:4,gpu:4'", ""),
        ("slurm", "gres: lustre:1", "asks Slurm for no GPUs"),
        ("slurm", "gpus_per_node: 0", "asks Slurm for no GPUs"),
        ("slurm", "extra: {gpu-bind: none}", "asks Slurm for no GPUs"),
        ("slurm", "extra: {gpus-per-task: 8}", ""),
        ("kubernetes", "gpus_per_node: 4", "it asks for 4 GPUs"),
        ("kubernetes", "{}", ""),
    ],
)
def test_fewer_gpus_than_ranks_are_warned_about(place: Path, backend: str, options: str, words: str) -> None:
    image = "container: a/b:1\n" if backend == "kubernetes" else ""
    text = f"backend: {backend}\nranks_per_node: 8\ngpu: H100-SXM\n{image}options:\n  {options}\n"
    (place / "c.yaml").write_text(text)
    tiny = str(ROOT / "configs" / "run" / "tiny.yaml")
    done = CliRunner().invoke(render, [tiny, "--cluster", str(place / "c.yaml"), "--runs", str(place)])
    assert done.exit_code == 0, (done.output, done.exception)
    assert words in done.stderr and bool(words) == ("warning" in done.stderr)


def test_earlier_attempts_and_the_batch_output_are_shown(place: Path) -> None:
    assert run(place).exit_code == 0
    run_dir = place / "runs" / "tiny"
    for attempt in (1, 2):
        (run_dir / "logs" / str(attempt)).mkdir(parents=True)
        (run_dir / "logs" / str(attempt) / "rank_0.log").write_text(f"attempt {attempt}\n")
    (run_dir / "slurm-12.out").write_text("module: cuda is loaded\n")

    def show(*words: str) -> Result:
        return CliRunner().invoke(logs, ["tiny", "--runs", str(place / "runs"), *words])

    assert show("--attempt", "1").stdout == "[0] attempt 1\n"
    assert show("--batch").stdout == "module: cuda is loaded\n"
    assert "has no attempt 3 (there are: 1, 2)" in str(show("--attempt", "3").exception)
    assert "leave out --attempt and --batch" in str(show("-f", "--batch").exception)


def test_a_run_that_nothing_starts_is_laid_out_with_the_command_that_does(place: Path) -> None:
    tiny = str(ROOT / "configs" / "run" / "tiny.yaml")
    words = [tiny, "--cluster", "accelerate", "--runs", str(place / "runs"), "--set", "model.vocab_size=512"]
    done = CliRunner().invoke(submit, words)
    assert done.exit_code == 0, (done.output, done.exception)
    file = place / "runs" / "tiny" / "accelerate.yaml"
    assert f"laid out tiny as job accelerate-tiny: {file.parent}\nstart it with\n" in done.output
    assert f"-m accelerate.commands.launch --config_file {file} -m trainer.train" in done.output
    assert "submitted" not in done.output and "cancel" not in done.output and file.exists()
