"""Ladders: recovery of a known law, the held-out cell, and what six cells cannot tell."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from launch.commands.design import design
from launch.commands.fit import fit
from launch.commands.forecast import score
from launch.commands.report import report
from launch.commands.sweep import resume, run, submit
from launch.scaling.laws.registry import find_law
from launch.scaling.other.ladder import fit_ladder
from launch.scaling.report import print_ladder, write
from launch.scaling.report.decisions import parameter_text
from launch.scaling.report.ladder import layout_difference
from launch.scaling.report.model import interval
from launch.scaling.table.counting import DEFAULT_N, N_CONVENTIONS
from launch.scaling.table.load import from_ledger, load
from launch.scaling.trust.study import study
from tests.scaling.runs import ladder_rows, ledger_row
from trainer.contract.errors import UserError


def test_a_noise_free_ladder_is_recovered() -> None:
    ladder = fit_ladder(from_ledger(ladder_rows(noise=0.0)))
    with_floor = ladder.laws[1].fitted.values
    assert with_floor["E"] == pytest.approx(2.9, rel=1e-6)
    assert with_floor["alpha"] == pytest.approx(0.3, rel=1e-6)
    assert ladder.laws[1].forecasts[0].error == pytest.approx(0, abs=1e-8)


def test_the_largest_cell_is_held_out_and_forecast() -> None:
    table = from_ledger(ladder_rows())
    ladder = fit_ladder(table)
    assert list(ladder.held_out) == [False] * 5 + [True]
    assert ladder.preferred.name == "power-N-floor"
    forecast = ladder.preferred.forecasts[0]
    assert forecast.measured == table.loss[5]
    assert forecast.inside is True and abs(forecast.error) < 0.01


def test_a_floor_that_fades_in_the_fit_comes_back_in_replicates() -> None:
    """Losses that fall ever faster with size fit best without a floor, but noise of 1 % may hide one."""
    shapes = ((32, 2), (48, 3), (80, 4), (128, 4), (176, 6), (256, 9), (320, 12))
    losses = (3.95, 3.86, 3.82, 3.68, 3.60, 3.45, 3.40)
    rows = [ledger_row(f"c{k}", *shape, 800_000, y) for k, (shape, y) in enumerate(zip(shapes, losses, strict=True))]
    law = fit_ladder(from_ledger(rows)).laws[1]
    assert law.intervals is not None
    assert law.fitted.values["E"] < 1e-3
    assert law.intervals["E"][1] > 1.0
    assert any("any floor from 0 to" in reason for reason in law.reasons)


def test_intervals_cover_at_their_nominal_rate() -> None:
    inside = [
        fit_ladder(from_ledger(ladder_rows(num=8, noise=0.01, seed=s)), replicates=200).laws[1].forecasts[0].inside
        for s in range(40)
    ]
    assert sum(map(bool, inside)) >= 34  # 95 % of 40 is 38; 34 or fewer has a chance below 3 %


def test_a_fixed_length_names_the_missing_allocation() -> None:
    ladder = fit_ladder(from_ledger(ladder_rows()))
    assert any("fixed D" in reason and "N*" in reason for reason in ladder.cannot)


def test_an_unknown_floor_is_named() -> None:
    rows = [
        ledger_row(f"c{k}", d, n, 3_000_000, float(20 / (12 * n * d * d + 2048 * d) ** 0.12 * (1 + 0.02 * (-1) ** k)))
        for k, (d, n) in enumerate([(32, 2), (48, 3), (80, 4), (128, 4), (176, 6), (256, 9)])
    ]
    ladder = fit_ladder(from_ledger(rows))
    assert any("E is not identified" in reason for reason in ladder.cannot)


def test_one_size_is_refused() -> None:
    rows = [ledger_row(f"c{k}", 64, 2, 3_000_000, 4.0 + k / 100) for k in range(4)]
    with pytest.raises(UserError, match="no ladder"):
        fit_ladder(from_ledger(rows))


def test_the_report_is_complete_and_self_contained(tmp_path) -> None:
    steps = list(range(20))
    curves = {"data=2": (steps, np.linspace(5, 4, 20)), "tensor=2": (steps, np.linspace(5, 4, 20) + 1e-6)}
    paths = write(ladder_rows(), tmp_path, title="A ladder", layout_check=curves)
    html, text = paths.html.read_text(), paths.markdown.read_text()
    assert 'src="data:image/png;base64,' in html and "http" not in html.split("</style>")[1]
    assert {p.stem for p in paths.figures} >= {"perplexity_against_parameters", "loss_by_position", "layout_check"}
    for image in paths.figures:
        assert f"({image.name})" in text and image.stat().st_size > 5000
    assert "fixed D" in text and "Held out: c5" in text


def test_layout_difference_uses_common_steps_only() -> None:
    assert layout_difference({"a": ([1, 2, 3], [5.0, 4.0, 3.0]), "b": ([2, 3], [4.0, 3.5])}) == 0.5


def test_the_law_that_is_named_as_the_next_question_is_not_refused(capsys) -> None:
    table = from_ledger(ladder_rows())
    law = print_ladder(table)
    assert law == "power-N" and "Cells" in capsys.readouterr().out
    assert study(table, find_law(law)).certificate.status != "refused"


@pytest.mark.parametrize("convention", ["head", "body", "total"])
def test_a_sweep_prints_the_exponent_that_the_next_command_prints(tmp_path: Path, convention: str) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in ladder_rows(noise=0.02)))
    console = Console(record=True, width=200, file=io.StringIO())
    law = print_ladder(load(ledger, n_convention=convention), console)
    words = [str(ledger), "--law", str(law), "--n-convention", convention]
    answer = json.loads(CliRunner().invoke(fit, [*words, "--json"], catch_exceptions=False).stdout)
    shown = console.export_text()
    row = next(line for line in shown.splitlines() if " alpha " in line and "E +" not in line)
    assert parameter_text("alpha", answer["params"]["alpha"]) in row
    assert interval(*answer["intervals"]["alpha"], ".4g") in row
    assert N_CONVENTIONS[convention] in shown
    said = CliRunner().invoke(fit, words, catch_exceptions=False).stdout
    assert f"N counts {N_CONVENTIONS[convention]}" in " ".join(said.split())


def test_every_door_counts_alike() -> None:
    for command in (fit, report, run, submit, resume, design, score):
        (option,) = (p for p in command.params if p.name == "n_convention")
        assert option.default == DEFAULT_N and "--n-convention" in option.opts, command.name
