"""The laws of learning rate and batch size from sweeps: simulated bowls with known powers, and what is said of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from launch.commands.fit import fit
from launch.scaling.other.tuning import fit_tuning
from launch.scaling.table.load import load
from tests.conftest import shared_data
from tests.scaling.runs import surface_loss
from trainer.contract.errors import UserError

BOWL = {"p": -0.6, "q": 0.25, "p_batch": 0.05, "q_batch": 0.5}  # of lr* and of the batch
STEP = np.log(2)


def write(path: Path, rows, columns: str = "N,D,lr,batch,loss") -> Path:
    path.write_text("\n".join([columns, *(",".join(repr(float(v)) for v in row) for row in rows)]) + "\n")
    return path


def bowl_rows(*, noise=0.0005, cross=-0.4, steep=1.0, vary=0.2, shift=0, lr_steps=4, batch_steps=4, seed=0):
    """Yield N, D, lr, batch and loss of grids of settings around each optimum.

    `cross` is the correlation of the bowl, `steep` how fast losses rise on the diverging side, `vary` the spread of the
    log curvature over cells, `shift` by how many steps each sweep may be off the optimum.
    """
    random = np.random.default_rng(seed)
    for N in 2e8 * 2.0 ** np.arange(4):
        for D in 5e9 * 4.0 ** np.arange(3):
            best = (
                np.log(3e3 * N ** BOWL["p"] * D ** BOWL["q"]),
                np.log(2 * N ** BOWL["p_batch"] * D ** BOWL["q_batch"]),
            )
            size = 0.004 * np.exp(vary * random.standard_normal())
            grids = [
                STEP * (np.round(b / STEP) + random.integers(-shift, shift + 1) + np.arange(-steps, steps + 1))
                for b, steps in zip(best, (lr_steps, batch_steps), strict=True)
            ]
            for u in grids[0]:
                for v in grids[1]:
                    du, dv = u - best[0], v - best[1]
                    rise = du**2 + 2 * cross * du * dv + dv**2 + 0.3 * steep * max(du - 0.3 * dv, 0) ** 3
                    yield (
                        N,
                        D,
                        np.exp(u),
                        np.exp(v),
                        surface_loss(N, D) * np.exp(size * rise + noise * random.standard_normal()),
                    )


def sweeps(path, noise: float = 0.0, values: tuple[float, ...] = (0.25, 0.5, 1, 2, 4)):
    random, rows = np.random.default_rng(0), []
    for N in (1e7, 3e7, 1e8, 3e8):
        for D in (1e9, 4e9):
            best = 0.4 * N**-0.25 * D**0.05
            for factor in values:
                log_loss = np.log(surface_loss(N, D)) + 0.02 * np.log(factor) ** 2 + noise * random.standard_normal()
                rows.append((N, D, best * factor, np.exp(log_loss)))
    return load(write(path, rows, "N,D,lr,loss"), trials_of="lr")


def holds(found, powers) -> list[bool]:
    return [low <= powers[n] <= high for n, (low, high) in found.intervals.items()]


def test_the_exponents_are_recovered(tmp_path) -> None:
    found = fit_tuning(sweeps(tmp_path / "t.csv"), "lr")
    assert found.values == pytest.approx({"k": 0.4, "p": -0.25, "q": 0.05}, rel=1e-6)
    assert found.curvature == (pytest.approx((0.02,), rel=1e-6),)
    assert found.num_cells == 8 and found.reasons == () and found.cost.most == pytest.approx(0, abs=1e-9)


def test_intervals_cover_under_noise(tmp_path) -> None:
    found = fit_tuning(sweeps(tmp_path / "t.csv", noise=0.002), "lr")
    low, high = found.intervals["p"]
    assert low < -0.25 < high and high - low < 0.3


def test_an_optimum_at_the_end_of_a_sweep_is_named(tmp_path) -> None:
    found = fit_tuning(sweeps(tmp_path / "t.csv", values=(1, 2, 4)), "lr")
    assert "at the end of the sweep in 8 of 8" in found.reasons[0]


def test_two_values_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="three values"):
        fit_tuning(sweeps(tmp_path / "t.csv", values=(0.5, 2)), "lr")


def test_a_loss_that_only_falls_has_no_law(tmp_path) -> None:
    rows = [(N, 1e9, lr, 3 - 0.1 * np.log(lr * 1e5)) for N in (1e7, 1e8) for lr in (1e-4, 2e-4, 4e-4)]
    with pytest.raises(UserError, match="show no minimum in lr"):
        fit_tuning(load(write(tmp_path / "t.csv", rows, "N,D,lr,loss"), trials_of="lr"), "lr")


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"noise": 0.0002, "steep": 4.0},
        {"noise": 0.002},
        {"cross": 0.6, "vary": 0.5},
        {"cross": 0.0, "shift": 2, "lr_steps": 3, "batch_steps": 3},
    ],
)
def test_a_joint_bowl_holds_the_truth_of_both_settings(tmp_path, kind) -> None:
    """95 % intervals: of four powers in each of five tables at most one in ten lies outside."""
    held, widths = [], []
    for seed in range(5):
        table = load(write(tmp_path / "t.csv", bowl_rows(seed=seed, **kind)), trials_of="lr")
        found = fit_tuning(table, "lr", seed=seed)
        assert found.other is not None and found.fixed == ""
        held += holds(found, BOWL) + holds(found.other, {"p": BOWL["p_batch"], "q": BOWL["q_batch"]})
        widths += [high - low for low, high in found.intervals.values()]
    assert len(held) == 20 and sum(held) >= 18 and np.median(widths) < 0.2


def test_a_window_that_reaches_the_diverging_side_is_not_taken(tmp_path) -> None:
    table = load(write(tmp_path / "t.csv", bowl_rows(noise=0.0002, steep=4.0)), trials_of="lr")
    found = fit_tuning(table, "lr")
    assert found.window < found.windows[0][0] and len(found.windows) >= 3


def test_the_two_questions_have_one_answer(tmp_path) -> None:
    table = load(write(tmp_path / "t.csv", bowl_rows()), trials_of="lr")
    rate, batch = fit_tuning(table, "lr"), fit_tuning(table, "batch-size")
    assert batch.other is not None and rate.other is not None
    assert batch.values == pytest.approx(rate.other.values) and batch.other.values == pytest.approx(rate.values)


def test_a_sweep_of_one_setting_says_that_the_other_is_fixed(tmp_path) -> None:
    rows = list(bowl_rows(batch_steps=0, noise=1e-4))
    path = write(tmp_path / "t.csv", rows)
    found = fit_tuning(load(path, trials_of="lr"), "lr")
    assert found.other is None and found.fixed == "at fixed batch" and "r" not in found.values
    text = CliRunner().invoke(fit, [str(path), "--law", "lr"]).output
    assert "N^p D^q at fixed batch" in text and "following the law costs" in text


def test_batches_that_go_their_own_way_have_a_power(tmp_path) -> None:
    rows = [
        (N, D, best * factor, batch, surface_loss(N, D) * np.exp(0.01 * np.log(factor) ** 2))
        for N in (1e8, 4e8)
        for D in (1e9, 8e9)
        for batch in (1e5, 4e5)
        for best in [7 * N**-0.4 * D**0.1 * batch**0.3]
        for factor in (0.4, 0.7, 1.1, 2, 3)
    ]
    found = fit_tuning(load(write(tmp_path / "t.csv", rows), trials_of="lr"), "lr")
    assert found.formula == "lr* = k N^p D^q batch^r"
    assert found.values == pytest.approx({"k": 7, "p": -0.4, "q": 0.1, "r": 0.3}, rel=1e-5)


def test_following_the_law_is_dear_where_a_cell_breaks_it(tmp_path) -> None:
    rows = list(bowl_rows(noise=0, steep=0, vary=0))
    odd = rows[0][:2]
    rows = [(N, D, lr * (8 if odd == (N, D) else 1), batch, loss) for N, D, lr, batch, loss in rows]
    cost = fit_tuning(load(write(tmp_path / "t.csv", rows), trials_of="lr"), "lr").cost
    assert cost.cells == 12 and cost.most == pytest.approx(np.expm1(0.004 * (3 * STEP) ** 2), rel=0.2)
    assert cost.mean < cost.most / 5


def test_the_case_files_are_answered() -> None:
    found = fit_tuning(load(shared_data("cases/scaling/lr_batch_bowl.csv"), trials_of="lr"), "lr")
    assert found.other is not None and found.reasons == ()
    assert holds(found, {"p": -0.713, "q": 0.307}) == [True, True]
    assert holds(found.other, {"p": 0.0, "q": 0.571}) == [True, True]
    result = CliRunner().invoke(fit, [str(shared_data("cases/scaling/half_empty_batch.csv")), "--law", "lr", "--json"])
    answer = json.loads(result.stdout)
    assert answer["params"]["p"] == pytest.approx(-0.5, abs=1e-3) and answer["rows_used"] == 30
    assert "left out: row 1 without lr, no trials of it" in answer["warnings"]
