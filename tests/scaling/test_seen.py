"""A forecast of a run that the fit has seen tests nothing, and an answer keeps the question that it was asked."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from launch.cli import escala
from launch.commands.fit import fit
from launch.commands.forecast import forecast
from launch.scaling.table.load import load
from launch.scaling.table.seen import runs_of, was_seen
from tests.scaling.runs import isoflop_grid, surface_loss


def table(path: Path, extra: str = "") -> tuple[Path, float, float]:
    """Write 28 named runs; return the path and N and D of run 9."""
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4))
    loss = surface_loss(N, D) * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(N)))
    rows = [f"run{k},{n},{d},{v}" for k, (n, d, v) in enumerate(zip(N, D, loss, strict=True))]
    path.write_text("\n".join(["name,N,D,loss", *rows, *([extra] if extra else [])]) + "\n")
    return path, float(N[9]), float(D[9])


def made(tmp_path: Path, *args: str):
    saved, book = tmp_path / "fit.json", tmp_path / "book.jsonl"
    return CliRunner().invoke(
        forecast, ["--fit", str(saved), "--ledger", str(book), "--json", *args], catch_exceptions=False
    )


@pytest.mark.parametrize("named", [True, False])
def test_a_run_that_the_fit_has_seen_is_told_and_never_scored(tmp_path, named) -> None:
    path, N, D = table(tmp_path / "t.csv")
    run = CliRunner()
    run.invoke(fit, [str(path), "--law", "chinchilla", "--bootstrap", "100", "--out", str(tmp_path / "fit.json")])
    again = made(tmp_path, "--params", f"{N:.0f}", "--tokens", f"{D:.0f}", *(["--name", "run9"] if named else []))
    assert json.loads(again.stdout)["seen"] is True and "the fit has seen this run" in again.stderr
    new = made(tmp_path, "--params", "3e9", "--tokens", "4e10", "--name", "new")
    assert json.loads(new.stdout)["seen"] is False and "seen" not in new.stderr
    later, *_ = table(tmp_path / "later.csv", f"new,3e9,4e10,{float(surface_loss(3e9, 4e10))}")
    score = ["score", str(later), "--ledger", str(tmp_path / "book.jsonl")]
    scores = {
        s["name"]: s
        for s in json.loads(run.invoke(forecast, [*score, "--json"], catch_exceptions=False).stdout)["scores"]
    }
    assert scores["run9" if named else ""]["inside"] is None and scores["new"]["inside"] is True
    text = run.invoke(forecast, score).stdout
    assert "that tests nothing" in text and "1 of 1 inside their interval" in text


@given(st.floats(-0.015, 0.015), st.floats(0.025, 0.5))
def test_a_run_is_seen_within_two_percent(near, far) -> None:
    runs = {"names": ["a"], "N": [1e8, 1e9], "D": [2e9, 2e10]}
    assert was_seen(runs, "", {"N": 1e9 * (1 + near), "D": 2e10 * (1 - near)})
    assert not was_seen(runs, "b", {"N": 1e9 * (1 + far), "D": 2e10})
    assert not was_seen(runs, "", {"N": 1e8, "D": 2e10}) and was_seen(runs, "a", {})
    assert not was_seen({}, "", {"N": 1e9, "D": 2e10})


def test_a_table_without_names_is_known_by_its_cells(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("N,D,loss\n1e8,2e9,3.1\n1e8,2e9,3.2\n1e9,2e9,2.9\n")
    assert runs_of(load(tmp_path / "t.csv")) == {"names": [], "N": [1e8, 1e9], "D": [2e9, 2e9]}


@pytest.mark.parametrize("law", ["chinchilla", "isoflop-parabola"])
def test_the_recorded_command_gives_the_same_answer_again(tmp_path, law) -> None:
    path, *_ = table(tmp_path / "a table.csv")
    args = ["fit", str(path), "--law", law, "--seed", "7", "--bootstrap", "60", "--drop-highest-loss", "2", "--json"]
    first = json.loads(CliRunner().invoke(escala, args, catch_exceptions=False).stdout)
    asked = first["question"]
    assert asked["options"]["--seed"] == 7 and asked["options"]["--delta"] == 1e-3
    assert len(asked["table"]["sha256"]) == 64 and asked["table"]["rows_used"] == 26 and asked["versions"]["numpy"]
    words = shlex.split(asked["command"])
    assert words[0] == "escala"
    second = json.loads(CliRunner().invoke(escala, words[1:], catch_exceptions=False).stdout)
    for answer in (first, second):
        answer.pop("seconds", None)
    assert second == first
