"""Changes one at a time: each against the base with the noise of seeds, and runs that diverged shown, never dropped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from launch.commands.report import report
from launch.scaling.other.changes import BASE, changes_of, is_of_changes
from launch.scaling.report.changes import changes_grid, headline
from tests.scaling.runs import ledger_row

LOSSES = {
    "": (3.00, 3.02, 2.98),
    "model.norm_placement=post": (3.30, 3.34, 3.32),
    "schedule.kind=linear": (3.01, 2.99, 3.01),
    "model.init=careless": (4.0, None, None),
    "model.norm_placement=none": (None, None, None),
}


def rows() -> list[dict]:
    found = []
    for change, losses in LOSSES.items():
        for seed, loss in enumerate(losses):
            settings = {"seed": seed, **dict(pair.split("=") for pair in [change] if pair)}
            ended = {} if loss is not None else {"status": "diverged", "reason": "loss is nan", "eval_set": "none"}
            row = ledger_row(f"{change}-{seed}", 64, 2, 800_000, loss or 1.0, seed=seed, settings=settings, **ended)
            found.append(row | ({"loss": None, "perplexity": None, "tokens": 4096} if loss is None else {}))
    return found


def test_each_change_stands_against_the_base_with_its_spread():
    found = changes_of(rows())
    assert is_of_changes(rows()) and found.base is not None and found.base.name == BASE
    post = next(c for c in found.each if c.name == "norm_placement=post")
    distance, error = found.beyond_base(post)
    assert distance == pytest.approx(0.32) and post.spread == pytest.approx(0.02)
    variances = [np.var(LOSSES[k], ddof=1) for k in list(LOSSES)[:3]]
    assert found.freedom == 6 and found.noise == pytest.approx(math.sqrt(np.mean(variances)))
    assert error == pytest.approx(found.noise * math.sqrt(2 / 3))
    text = " ".join(headline(found))
    assert "Worse, in perplexity, by more than seeds explain: norm_placement=post +37.7%" in text
    assert "Not told apart from the base by these seeds: schedule=linear" in text


def test_runs_that_diverged_are_rows_and_never_dropped():
    found = changes_of(rows())
    assert sum(change.runs for change in found.each) == 15
    grid = {row[0]: row for row in changes_grid(found).rows}
    assert grid["init=careless"][5:] == ["1 of 3", "2 diverged"]
    assert grid["norm_placement=none"][1] == "none" and grid["norm_placement=none"][6] == "3 diverged"
    assert "norm_placement=none: 3 diverged of 3 runs." in headline(found)


def test_a_ledger_of_changes_is_reported_as_one(tmp_path: Path):
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    done = CliRunner().invoke(report, [str(ledger), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0 and (tmp_path / "out/perplexity_by_change.png").exists()
    text = (tmp_path / "out/report.md").read_text()
    assert "| norm_placement=none | none |" in text and "3 diverged" in text


def test_a_later_row_of_a_run_that_was_started_again_counts():
    again = next(row for row in rows() if row["settings"] == {"seed": 1, "model.init": "careless"})
    done = again | {"status": "done", "loss": 4.2, "tokens": 800_000, "eval_set": "embedded"}
    careless = next(c for c in changes_of([*rows(), done]).each if "careless" in c.name)
    assert careless.losses == (4.0, 4.2) and len(careless.badly) == 1


@pytest.mark.parametrize("changes", [{"tokens": 10**6}, {"kind": "lstm"}, {"params_body": 10**6}, {"settings": None}])
def test_ladders_families_and_old_ledgers_are_no_changes(changes: dict):
    assert not is_of_changes([*rows(), ledger_row("x", 64, 2, 800_000, 3.0, settings={}) | changes])
