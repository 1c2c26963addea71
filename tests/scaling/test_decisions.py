"""What a fit decides and what that rests on: laws, left-out groups, ways to count, families, and cells to come."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from launch.commands.fit import fit
from launch.scaling.fit.fit import fit_law
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.other.isoflop import fit_frontier
from launch.scaling.questions.conventions import count_every_way
from launch.scaling.questions.sensitivity import sensitivity
from launch.scaling.report.decisions import sensitivity_grid
from launch.scaling.table.load import from_ledger, load
from launch.scaling.table.table import Table
from launch.scaling.trust.decision_draws import draw_decision
from launch.sweep.design.pending import add_cell
from tests.conftest import shared_data
from tests.scaling.runs import SURFACE, isoflop_grid, ledger_row, surface_loss
from trainer.contract.errors import UserError


def surface_table(tmp_path, noise: float = 0.002, extra: str = ""):
    N, D = isoflop_grid(np.geomspace(1e18, 1e21, 4))
    loss = surface_loss(N, D) * np.exp(noise * np.random.default_rng(0).standard_normal(len(N)))
    path = tmp_path / "t.csv"
    rows = zip(N.tolist(), D.tolist(), loss.tolist(), strict=True)
    path.write_text("N,D,loss\n" + "\n".join(",".join(map(repr, r)) for r in rows) + "\n")
    return path


def test_laws_and_left_out_budgets_are_asked(tmp_path) -> None:
    args = [str(surface_table(tmp_path)), "--target", "1e22", "--cluster", "C", "--bootstrap", "100", "--json"]
    answer = json.loads(CliRunner().invoke(fit, args, catch_exceptions=False).output)
    low, high = answer["decision"]["N"]["interval"]
    assert low < answer["decision"]["N"]["value"] < high
    asked = answer["sensitivity"]
    assert {c["law"] for c in asked["laws"]} == set(answer["near"]) and "chinchilla" in answer["near"]
    assert len([c for c in asked["left_out"] if c["by"] == "C"]) == 4
    least, most = asked["spread"]["without one C"]["N"]
    assert least < answer["decision"]["N"]["value"] < most


def test_a_group_that_carries_the_fit_shows(tmp_path) -> None:
    table = load(surface_table(tmp_path, noise=0.0))
    bent = table.loss * np.where(table.C > 5e20, 1.02, 1.0)
    table = replace(table, columns={**table.columns, "loss": bent})
    drawn = draw_decision({"chinchilla": (fit_law(CHINCHILLA, table.columns, table.loss), 1.0)}, table)
    choices = {c.without: c.N for c in sensitivity(drawn, 1e22).left_out if c.by == "C"}
    a = SURFACE["beta"] / (SURFACE["alpha"] + SURFACE["beta"])
    ratio = SURFACE["alpha"] * SURFACE["A"] / (SURFACE["beta"] * SURFACE["B"])
    truth = ratio ** (a / SURFACE["beta"]) * (1e22 / 6) ** a
    assert choices["1e+21"] == pytest.approx(truth, rel=1e-3)
    assert max(abs(np.log(N / truth)) for N in choices.values()) > 5e-3


def test_every_way_to_count_moves_the_exponent() -> None:
    shapes = [(64, 2), (96, 4), (128, 8), (256, 8), (384, 12)]
    rows = []
    for k, (d, n) in enumerate(shapes):
        for i, tokens in enumerate([2 * 10**7, 8 * 10**7, 3 * 10**8, 10**9]):
            N = 12 * n * d**2 + 2048 * d
            exact = 6.0 * N * (1 + 0.1 * (384 / d)) * tokens  # small models pay more for attention
            rows.append(ledger_row(f"c{k}-{i}", d, n, tokens, float(surface_loss(N, tokens)), flops_exact=exact))
    found = {(c.N, c.C): c for c in count_every_way(from_ledger(rows), CHINCHILLA)}
    assert len(found) == 6
    expected = SURFACE["beta"] / (SURFACE["alpha"] + SURFACE["beta"])
    assert found["head", "6nd"].exponent == pytest.approx(expected, abs=1e-4)
    assert found["head", "exact"].exponent > expected + 1e-3  # a token costs less than N^1, so N* grows faster
    assert found["body", "6nd"].exponent > expected + 0.01  # Kaplan et al.'s count: N* grows faster


@pytest.mark.parametrize(
    ("counted", "published"), [("kaplan_lmhead", 0.54), ("chinchilla_all", 0.37), ("transformer_only", 0.70)]
)
def test_nanochats_optima_counted_in_three_ways(counted, published) -> None:
    path = shared_data("scaling/nanochat_isoflop_optima.csv")
    table = load(path, {"N": "params", "C": "flops", "loss": "val_bpb"}, where={"convention": counted})
    found = fit_frontier(table, "envelope")
    # Its log prints the slope from the smallest to the largest budget; ours goes through all four.
    ends = np.log(table.N[[0, -1]]), np.log(table.C[[0, -1]])
    assert np.diff(ends[0]) / np.diff(ends[1]) == pytest.approx(published, abs=0.006)
    assert found.exponent == pytest.approx(published, abs=0.02)
    assert found.interval is not None and found.interval[0] < published < found.interval[1]


def test_a_family_behind_is_printed_with_its_interval(tmp_path) -> None:
    random, lines = np.random.default_rng(0), ["N,D,loss,family"]
    for family, rho in (("transformer", 1.0), ("lstm", 0.25)):
        for N in np.geomspace(1e7, 1e9, 5):
            for D in np.geomspace(1e9, 1e11, 4):
                loss = float(surface_loss(rho * N, D)) * float(np.exp(1e-3 * random.standard_normal()))
                lines.append(f"{N!r},{D!r},{loss!r},{family}".replace("np.float64(", "").replace(")", ""))
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    args = [str(path), "--law", "shared-exponents", "--reference", "transformer", "--bootstrap", "100"]
    answer = json.loads(CliRunner().invoke(fit, [*args, "--json"], catch_exceptions=False).output)
    (lstm,) = answer["behind"]["families"]
    value, low, high = lstm["parameters"]
    assert low < value < high and value == pytest.approx(4, rel=0.05)
    assert lstm["flops"][0] == pytest.approx(4, rel=0.05)
    assert "Families at equal loss" in CliRunner().invoke(fit, args, catch_exceptions=False).output


@pytest.mark.parametrize("before", ["name: a\nrun: cell\n", "name: a\nrun: cell\ncells:\n  - {tokens: 1000} # one\n"])
def test_a_cell_is_added_and_the_rest_of_the_file_stays(tmp_path, before) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(before)
    add_cell(path, {"model.size": "50k", "tokens": 2000})
    add_cell(path, {"model.size": "50k", "tokens": 2000})
    assert path.read_text().startswith(before)
    assert yaml.safe_load(path.read_text())["cells"][-1] == {"model.size": "50k", "tokens": 2000}
    assert path.read_text().count("50k") == 1


def test_a_file_that_goes_on_after_its_cells_is_left_alone(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ncells:\n- {tokens: 1000}\nrun: cell\n")
    with pytest.raises(UserError, match="by hand"):
        add_cell(path, {"tokens": 2000})


def test_many_sizes_are_left_out_in_blocks_of_neighbours() -> None:
    N = np.geomspace(1e7, 1e9, 60)
    D = np.where(np.arange(60) % 2, 1e9, 1e10) * np.geomspace(1, 3, 60)
    table = Table("many", "", {"N": N, "D": D, "C": 6 * N * D, "loss": surface_loss(N, D)}, np.arange(1, 61), {})
    drawn = draw_decision({"chinchilla": (fit_law(CHINCHILLA, table.columns, table.loss), 1.0)}, table)
    blocks = [c for c in sensitivity(drawn, 1e20).left_out if c.by == "N"]
    assert len(blocks) == 10 and blocks[0].without.startswith("1e+07 to ")
    assert "over 10 fits without one N each" in str(sensitivity_grid(sensitivity(drawn, 1e20)).rows)
