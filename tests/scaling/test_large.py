"""Tables of very many rows: the shortcuts give what the whole way gives, in bounded memory, with progress."""

import json
import logging

import numpy as np
import pytest
from click.testing import CliRunner

from launch.commands.fit import fit
from launch.scaling.arrays import distinct_columns, near_groups, numbered_columns
from launch.scaling.fit import large, newton, search
from launch.scaling.fit.fit import fit_law
from launch.scaling.laws.identify import NEAR, distinct, obstacles_of_cells
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.table.clusters import clusters
from launch.scaling.table.table import Table
from launch.scaling.trust import obstacles
from launch.scaling.trust.bootstrap import row_weights, weighted_bootstrap
from launch.scaling.trust.certify import certify
from launch.scaling.trust.holdout import hold_out
from launch.scaling.trust.shared_errors import numbered, shared_errors
from launch.show import progress
from tests.scaling.runs import surface_loss


def runs(num: int, heavy: bool = False):
    random = np.random.default_rng(0)
    N, D = (
        np.exp(random.uniform(np.log(1e7), np.log(1e10), num)),
        np.exp(random.uniform(np.log(1e9), np.log(1e12), num)),
    )
    noise = random.standard_t(3, num) if heavy else random.standard_normal(num)
    return {"N": N, "D": D}, surface_loss(N, D) * np.exp(0.003 * noise)


@pytest.fixture
def small_is_large(monkeypatch) -> None:
    monkeypatch.setattr(large, "LARGE", 2_000)
    monkeypatch.setattr(large, "THINNED", 600)


@pytest.mark.parametrize("heavy", [False, True])
def test_shortcuts_of_a_large_table_give_the_whole_fit(monkeypatch, small_is_large, heavy) -> None:
    columns, loss = runs(4_000, heavy)
    weights = row_weights(len(loss), 60, 1)
    short = fit_law(CHINCHILLA, columns, loss)
    quick, checked = weighted_bootstrap(short, weights).draws, certify(short)
    for module in (newton, search):
        monkeypatch.setattr(module, "is_large", lambda problem: False)
    whole = fit_law(CHINCHILLA, columns, loss)
    slow, certificate = weighted_bootstrap(whole, weights).draws, certify(whole)
    assert short.objective == pytest.approx(whole.objective, rel=1e-9)
    assert quick is not None and slow is not None
    spread = slow.std(axis=0)
    assert (
        np.abs(quick.std(axis=0) / spread - 1).max() < 0.05
        and np.abs(quick - slow).mean(axis=0).max() < 0.1 * spread.max()
    )
    assert checked.status == certificate.status == "certified"
    for name, (low, high) in certificate.intervals(CHINCHILLA).items():
        width = high - low
        assert checked.intervals(CHINCHILLA)[name] == pytest.approx((low, high), abs=0.1 * width)


def test_parts_of_a_batch_are_the_batch(monkeypatch, small_is_large) -> None:
    columns, loss = runs(2_500)
    monkeypatch.setattr(newton, "LARGEST_BATCH", 3 * 2_500 * 5)
    fitted = fit_law(CHINCHILLA, columns, loss)
    starts = fitted.theta + 0.01 * np.random.default_rng(0).standard_normal((7, 5))
    found = newton.minimise(fitted.problem(), starts)
    assert found.theta.shape == (7, 5) and found.objective == pytest.approx(np.full(7, fitted.objective), rel=1e-9)


def test_how_often_rows_are_drawn_is_as_published() -> None:
    """The samples are those of numpy's legacy generator with the seed of Besiroglu et al. 2024."""
    random, weights = np.random.RandomState(42), row_weights(50, 3, 42)
    for drawn in weights:
        rows = random.choice(50, size=50, replace=True)
        assert drawn.tolist() == [int((rows == k).sum()) for k in range(50)]


@pytest.mark.parametrize("most", [1, 3, 40, 10_000])
def test_values_are_counted_without_sorting_them(most) -> None:
    values = np.exp(np.random.default_rng(0).uniform(0, 0.2, 500))
    assert distinct(values, most) == min(most, 1 + int(near_groups(np.log(values), NEAR).max()))


def test_hold_out_asks_where_runs_lie_once_for_all_laws(monkeypatch) -> None:
    columns, loss = runs(60)
    table = Table("t", "", {**columns, "C": 6 * columns["N"] * columns["D"], "loss": loss}, np.arange(60), {})
    asked = []

    def counted(cells):
        asked.append(cells.shape[1])
        return obstacles_of_cells(cells)

    monkeypatch.setattr(obstacles, "obstacles_of_cells", counted)
    assert len(hold_out(table)) == 4 and asked == [60, 30, 39, 48, 54]


def test_groups_of_near_values_begin_at_the_least() -> None:
    assert near_groups(np.array([0.0, 0.9, 1.8, 5.0, 0.5]), 1.0).tolist() == [0, 0, 1, 2, 0]


def test_progress_is_shown_while_it_takes_long(monkeypatch, small_is_large, tmp_path) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    columns, loss = runs(3_000)
    path = tmp_path / "t.csv"
    rows = "".join(f"{n},{d},{v}\n" for n, d, v in zip(columns["N"], columns["D"], loss, strict=True))
    path.write_text("N,D,loss\n" + rows)
    result = CliRunner().invoke(fit, [str(path), "--law", "chinchilla", "--bootstrap", "40", "--json"])
    assert "chinchilla: 40 of 40 fits to 3000 rows" in result.stderr
    assert json.loads(result.stdout)["certificate"]["status"] == "certified"
    assert not logging.getLogger("escala.scaling").handlers


def test_errors_that_runs_of_one_size_share_are_found_in_a_large_table() -> None:
    """A matrix of 30,000 runs by themselves would take 7 GB."""
    columns, loss = runs(30_000)
    table = Table("t", "", {**columns, "loss": loss}, np.arange(len(loss)), {})
    group = numbered(clusters(table, "N"))
    loss = loss * np.exp(0.002 * np.random.default_rng(1).standard_normal(int(group.max()) + 1))[group]
    shared = {e.by: e for e in shared_errors(fit_law(CHINCHILLA, columns, loss, every_start=6), table)}
    assert shared["N"].sd == pytest.approx(0.002, rel=0.15) and shared["N"].p_value < 1e-9 < shared["D"].p_value


@pytest.mark.parametrize("shape", [(2, 0), (1, 1), (1, 40), (2, 1), (2, 60), (3, 200)])
def test_distinct_columns_are_those_of_numpy(shape) -> None:
    rows = np.random.default_rng(0).integers(-3, 3, shape) / 4
    columns, first, number = np.unique(rows, axis=1, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(distinct_columns(rows), columns)
    for ours, theirs in zip(numbered_columns(rows), (first, number.ravel()), strict=True):
        np.testing.assert_array_equal(ours, theirs)
