"""What a table cannot tell is refused whatever its losses say, and what it can tell is certified."""

import numpy as np
import pytest

from launch.scaling.fit.fit import fit_law
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import find_law
from launch.scaling.questions.judged import judged
from launch.scaling.questions.sensitivity import sensitivity
from launch.scaling.report.decisions import sensitivity_grid
from launch.scaling.table.load import load
from launch.scaling.table.table import Table
from launch.scaling.trust.decision_draws import draw_decision
from launch.scaling.trust.holdout import Chosen, choose_law
from launch.scaling.trust.study import study
from tests.conftest import shared_data
from tests.scaling.runs import isoflop_grid, surface_loss


def certificate(N, D, loss=None, law=CHINCHILLA, noise: float = 0.0):
    loss = surface_loss(N, D) if loss is None else loss
    loss = loss * np.exp(noise * np.random.default_rng(0).standard_normal(len(N)))
    columns = {"N": N, "D": D, "C": 6 * N * D, "loss": loss}
    return study(Table("a table", "", columns, np.arange(1, len(N) + 1), {}), law).certificate


LADDER = np.geomspace(1e7, 1e10, 12)


@pytest.mark.parametrize("noise", [0.0, 0.003])
@pytest.mark.parametrize("varies", [0.0, 0.02, 0.1])
def test_a_ratio_that_hardly_varies_is_refused(noise, varies) -> None:
    D = 20 * LADDER * np.exp(varies * np.random.default_rng(1).standard_normal(len(LADDER)))
    found = certificate(LADDER, D, noise=noise)
    assert found.status == "refused" and found.reasons[0].startswith("fixed D/N: every run has D/N =")


@pytest.mark.parametrize("odd", [0, 5, 11])
def test_a_ladder_that_one_run_makes_look_identified_is_refused(odd) -> None:
    D = 20 * LADDER
    D[odd] *= 10
    found = certificate(LADDER, D, noise=0.001)
    assert found.status == "refused"
    assert f"rests on one run (N = {LADDER[odd]:.3g}" in found.reasons[0] and "fixed D/N" in found.reasons[0]


def test_a_third_size_of_one_run_does_not_make_three_sizes() -> None:
    N = np.where(np.arange(24) % 2, 1e8, 1e9).astype(float)
    N[3] = 3e8
    found = certificate(N, np.geomspace(1e9, 1e11, 24), noise=0.003)
    assert found.status == "refused" and "Without it: only 2 different values of N" in found.reasons[0]


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_one_budget_is_refused(noise) -> None:
    found = certificate(LADDER, 1e21 / 6 / LADDER, noise=noise)
    assert found.status == "refused" and found.reasons[0].startswith("one budget: every run has 6 N D near 1e+21")


@pytest.mark.parametrize("floor", [0.003, 0.012, 0.3, 3.0])
def test_a_floor_of_any_height_is_certified_where_nothing_hides_it(floor) -> None:
    N, D = isoflop_grid([1e18, 1e19, 1e20, 1e21])
    assert certificate(N, D, floor + 400 / N**0.34 + 400 / D**0.28).status == "certified"


@pytest.mark.parametrize("noise", [0.0, 0.002])
def test_a_decision_that_does_not_hang_on_the_floor_is_not_refused_for_it(noise) -> None:
    N, D = isoflop_grid([1e18, 1e19, 1e20, 1e21])
    loss = (400 / N**0.34 + 400 / D**0.28) * np.exp(noise * np.random.default_rng(0).standard_normal(len(N)))
    table = Table("a table", "", {"N": N, "D": D, "C": 6 * N * D, "loss": loss}, np.arange(1, len(N) + 1), {})
    found = judged(study(table, CHINCHILLA), Chosen("chinchilla"))
    assert found.study.certificate.status == ("certified" if noise else "weak"), found.study.certificate.reasons
    assert "E is not identified" in found.study.certificate.identified(CHINCHILLA)
    assert "identified: alpha, beta" in found.study.certificate.identified(CHINCHILLA)


@pytest.mark.parametrize(("factor", "status"), [(1.2, "refused"), (1.9, "refused"), (30.0, "certified")])
@pytest.mark.parametrize("name", ["N", "D"])
def test_narrow_sizes_and_lengths_are_refused(factor, status, name) -> None:
    N, D = (
        np.geomspace(1e8, 1e8 * (factor if name == "N" else 30), 6),
        np.geomspace(1e9, 1e9 * (factor if name == "D" else 30), 6),
    )
    N, D = N.repeat(6), np.tile(D, 6)
    found = certificate(N, D, surface_loss(N, D))
    assert found.status == status and (status == "certified" or found.reasons[0].startswith(f"narrow: {name} "))


@pytest.mark.parametrize("name", ["one_width", "narrow_sizes"])
def test_the_narrow_case_files_are_refused(name) -> None:
    table = load(shared_data(f"cases/scaling/{name}.csv"))
    chosen = choose_law(table)
    assert study(table, find_law(chosen.law)).certificate.status == "refused" and "power-D" in chosen.why


def test_fits_that_cannot_tell_without_a_group_are_shown() -> None:
    N, D = np.array([1e8, 2e8, 4e8]).repeat(6), np.tile(np.geomspace(1e9, 3e10, 6), 3)
    table = Table("t", "", {"N": N, "D": D, "C": 6 * N * D, "loss": surface_loss(N, D)}, np.arange(18), {})
    drawn = draw_decision({"chinchilla": (fit_law(CHINCHILLA, table.columns, table.loss), 1.0)}, table)
    found = sensitivity(drawn, 1e21)
    sizes = [c for c in found.left_out if c.by == "N"]
    assert [c.N for c in sizes] == [None] * 3 and "only 2 different" in sizes[0].reason
    grid = sensitivity_grid(found)
    assert sum("cannot tell" in row for row in grid.rows) == 3 and "3 of 3 fits cannot tell" in grid.caption
    assert "without one N" not in found.to_json()["spread"]


def test_a_loss_that_rises_is_refused() -> None:
    N, D = isoflop_grid([1e18, 1e19, 1e20, 1e21])
    found = certificate(N, D, 6 - surface_loss(N, D))
    assert any("does not fall with N" in r for r in found.reasons)


def test_the_published_farseer_surface_is_certified() -> None:
    """Li et al. 2025, arXiv 2506.10972: its exponents have either sign, and the loss falls all the same."""
    N, D = (x.ravel() for x in np.meshgrid(np.geomspace(2e8, 6e9, 9), np.geomspace(1e9, 3e11, 9)))
    slope = np.exp(-0.124 * N**0.123 + 0.424)
    loss = np.exp(-0.021 * N**0.169 - 0.091) + np.exp(88.01 * N**-0.1 - 6.287) * D**-slope
    assert certificate(N, D, loss, find_law("farseer")).status == "certified"
