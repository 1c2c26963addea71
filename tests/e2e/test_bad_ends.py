"""Every way to end badly, planted in one sweep: all that read it name each, and --failed starts just those again."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from launch.cli import main
from launch.cluster.job import JobSpec
from launch.cluster.local.backend import LocalBackend
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import load_sweep
from launch.sweep.ledger import ledger
from tests.e2e.planted import CURED, EARLY, KILLED, LATE, REFUSED
from tests.e2e.ranks import configuration
from trainer.contract.exit_codes import EXIT_DIVERGED, EXIT_FAILED, EXIT_USER_ERROR
from trainer.contract.run_dir import RunDir, Status, write_atomically

pytestmark = pytest.mark.e2e
GOOD, CHANCE, GONE = (1, 2, 3), 4, 5  # seeds
NO_PROCESS = 2**22 + 7  # beyond what the kernel gives


@pytest.fixture
def sweep(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a sweep file of twelve steps a cell, whose cells run `tests.e2e.planted` on this machine."""
    run = configuration(prepared, 12, evaluation={"tokens": 20_000}).model_dump(mode="json")
    run.pop("tokens")
    sizes = [{"model.d_ff": 32 * k, "seed": seed} for k, seed in enumerate(GOOD, start=1)]
    bad = [{"seed": seed} for seed in (EARLY, LATE, KILLED, REFUSED, GONE)]
    cells = [*sizes, *bad, {"seed": CHANCE, "optim.lr": 1e-9}]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "slots": 2, "run": run, "cells": cells}))
    submit: Callable[[LocalBackend, JobSpec], str] = LocalBackend.submit

    def planted(backend: LocalBackend, spec: JobSpec) -> str:
        _, _, *rest = spec.command
        return submit(backend, replace(spec, command=("-m", "tests.e2e.planted", *rest)))

    monkeypatch.setattr(LocalBackend, "submit", planted)
    return tmp_path / "s.yaml"


def escala(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Run a command in this process; return its exit code and all that it printed."""
    capsys.readouterr()
    code = 0
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, said = capsys.readouterr()
    return code, out + said


def states(capsys: pytest.CaptureFixture[str], sweep: Path, runs: Path) -> dict[int, dict]:
    code, text = escala(capsys, "sweep", "status", sweep, "--runs", runs, "--json")
    assert code == 0, text
    seeds = [cell.config.seed for cell in cells_of(load_sweep(sweep))]
    return dict(zip(seeds, json.loads(text)["cells"], strict=True))


def test_every_bad_end_is_named_and_started_again_when_asked_for(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    names = {cell.config.seed: cell.id for cell in cells_of(load_sweep(sweep))}
    gone = RunDir(runs / "s" / "cells" / names[GONE])
    gone.root.mkdir(parents=True)
    gone.write_status(Status.RUNNING)
    write_atomically(gone.run, json.dumps({"host": socket.gethostname(), "pid": NO_PROCESS, "wandb_id": "x"}))
    before = sorted(tmp_path.rglob("*"))
    assert states(capsys, sweep, runs)[GONE]["state"] == "dead"
    assert sorted(tmp_path.rglob("*")) == before, "asking changes nothing"

    code, text = escala(capsys, "sweep", "run", sweep, "--runs", runs)
    assert code == EXIT_FAILED, text
    assert f"{names[GONE]} was running, its process {NO_PROCESS} is gone" in text
    for word in ("2 of 9 cells failed", "2 of 9 cells diverged", "--failed' starts them again"):
        assert word in text, text

    found = states(capsys, sweep, runs)
    said = {seed: (cell["state"], cell["reason"]) for seed, cell in found.items()}
    for seed in (*GOOD, GONE):  # twelve steps may teach less than how frequent each token is
        assert said[seed][0] == "done" and (not said[seed][1] or "unigram entropy" in said[seed][1]), said
    for seed, state, why in (
        (EARLY, "diverged", "after step 3"), (LATE, "diverged", "after step 11"), (KILLED, "failed", "signal SIGKILL"),
        (REFUSED, "failed", "the data say nothing of this"), (CHANCE, "done", "no better than chance"),
    ):  # fmt: skip
        assert said[seed][0] == state and why in said[seed][1], said

    book = ledger.latest(runs / "s" / "ledger.jsonl")
    for seed, step in ((EARLY, 3), (LATE, 11)):
        row = book[names[seed]]
        assert (row["status"], row["step"], row["loss"]) == ("diverged", step, None)
        assert math.isfinite(row["train_loss"]) and row["tokenizer_hash"]
    assert {book[names[seed]]["status"] for seed in (KILLED, REFUSED)} == {"failed"}
    assert {book[names[seed]]["status"] for seed in (*GOOD, GONE, CHANCE)} == {"done"}

    table = runs / "s" / "ledger.jsonl"
    _, fitted = escala(capsys, "fit", table, "--bootstrap", 60, "--law", "power-N", "--json")
    code, _ = escala(capsys, "report", table, "--out", tmp_path / "report")
    pages = [fitted, (tmp_path / "report" / "report.md").read_text().replace("\\", "")] if code == 0 else [fitted]
    for page in pages:
        for seed in (EARLY, LATE, KILLED, REFUSED, CHANCE):
            assert names[seed] in page, (seed, page)
        assert "no better than chance" in page and "left out, diverged" in page and "left out, failed" in page

    code, text = escala(capsys, "sweep", "run", sweep, "--runs", runs)
    assert code == EXIT_FAILED and "nothing to train: 2 cells failed and 2 diverged before" in text
    for more, due in (((), 0), (("--failed",), 4)):
        assert f", {due} to train" in escala(capsys, "sweep", "run", sweep, "--runs", runs, "--dry-run", *more)[1]

    monkeypatch.setenv(CURED, "1")
    code, text = escala(capsys, "sweep", "run", sweep, "--runs", runs, "--failed", "--json")
    assert code == 0, text
    started = json.loads(text[text.index("{\n") : text.rindex("}") + 1])["started"]
    assert set(started) == {names[seed] for seed in (EARLY, LATE, KILLED, REFUSED)}
    assert {cell["state"] for cell in states(capsys, sweep, runs).values()} == {"done"}


@pytest.mark.parametrize(
    ("seed", "code", "status", "said"),
    [
        (EARLY, EXIT_DIVERGED, "diverged", "the run diverged (loss nan and gradient norm"),
        (KILLED, EXIT_FAILED, "failed", "ended with signal SIGKILL"),
        (REFUSED, EXIT_USER_ERROR, "failed", "the data say nothing of this"),
    ],
)
def test_a_run_ends_with_the_code_of_the_table_and_its_status_says_how(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int, code: int, status: str, said: str
) -> None:
    values = yaml.safe_load(sweep.read_text())["run"]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**values, "seed": seed}))
    ended, text = escala(capsys, "train", tmp_path / "run.yaml", "--runs", tmp_path / "runs")
    assert (ended, said in text) == (code, True), text
    run_dir = RunDir(tmp_path / "runs" / values["name"])
    assert run_dir.read_status() == status
    _, listed = escala(capsys, "jobs", "--json", "--runs", tmp_path / "runs")
    (row,) = json.loads(listed)
    assert row["state"] == "failed" and {EARLY: "error: diverged: loss nan"}.get(seed, said) in row["reason"]


def test_a_sweep_of_which_cells_only_diverged_says_so_by_its_exit_code(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = yaml.safe_load(sweep.read_text())
    sweep.write_text(yaml.safe_dump({**values, "cells": [{"seed": 1}, {"seed": EARLY}]}))
    code, text = escala(capsys, "sweep", "run", sweep, "--runs", tmp_path / "runs")
    assert code == EXIT_DIVERGED and "1 of 2 cells diverged" in text and "after step 3" in text
    name = {cell.config.seed: cell.id for cell in cells_of(load_sweep(sweep))}[EARLY]
    code, why = escala(capsys, "why", tmp_path / "runs" / "s" / "cells" / name)
    assert why.rstrip().endswith(f"escala sweep resume {sweep} --failed --runs {tmp_path / 'runs'}"), why
    assert "diverged, not a number" in why and "step 3 taken again: the same step is finite" in why, why
