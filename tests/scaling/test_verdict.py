"""One interval for a decision, what it is drawn from, and the grade of the decision by stated rules."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.coverage import judge_decision, recorded, records, summary
from benchmarks.simulated_sweeps import CASES, DECISIONS, simulate
from launch.commands.fit import fit
from launch.commands.forecast import forecast
from launch.commands.optimal import optimal
from launch.scaling.fit.fit import fit_law
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import FIXED
from launch.scaling.questions.judged import judged
from launch.scaling.questions.next_run import decide
from launch.scaling.questions.saved_fit import load_fit
from launch.scaling.table.load import load
from launch.scaling.table.table import Table
from launch.scaling.trust.decision import Spread, quantiles, spread_of
from launch.scaling.trust.decision_draws import demanded, draw_decision
from launch.scaling.trust.holdout import Chosen, choose_law
from launch.scaling.trust.replicates import DecisionDraws, LeftOut, Replicates
from launch.scaling.trust.shared_errors import shared_errors
from launch.scaling.trust.study import study
from launch.scaling.trust.verdict import Evidence, judge
from tests.conftest import shared_data
from trainer.contract.errors import UserError


def written(table: Table, path: Path) -> Path:
    rows = zip(table.N.tolist(), table.D.tolist(), table.loss.tolist(), strict=True)
    path.write_text("N,D,loss\n" + "".join(f"{n!r},{d!r},{loss!r}\n" for n, d, loss in rows))
    return path


def answer(path: Path, *args: str) -> dict:
    return json.loads(CliRunner().invoke(fit, [str(path), *args, "--json"], catch_exceptions=False).stdout)


def test_the_default_law_does_not_fix_what_is_asked() -> None:
    found = answer(shared_data("cases/scaling/auto_choice.csv"), "--target", "3e20")
    assert found["hold_out"][0]["law"] == "over-training" and found["law"] == "chinchilla"
    assert "over-training" not in found["near"] and "fixes N* ~ C^.5" in found["chosen"]
    low, high = found["decision"]["N"]["interval"]
    assert low < 1.505e9 < high < 1.5 * low  # the truth, and an interval that still says something


@pytest.mark.parametrize("name", ["isoflop 6x6", "isoflop 6x6, budgets share errors"])
def test_decisions_hold_the_truth_in_simulated_sweeps(name) -> None:
    """A small part of `python -m benchmarks.coverage`: the whole is in docs/benchmarks/scaling.md."""
    held = [found for _, found in (judge_decision(DECISIONS[name], seed) for seed in range(4)) if found]
    for key in ("N* held", "loss held", "new run held"):
        assert sum(h[key] for h in held) >= len(held) - 1, key


def test_the_benchmark_goes_on_where_it_stopped(tmp_path) -> None:
    cases, results = {"grid 10x6, narrow sizes": DECISIONS["grid 10x6, narrow sizes"]}, tmp_path / "tables.jsonl"
    first = list(records(cases, range(7, 8), results, named=False))
    with results.open("a") as file:
        file.write(json.dumps(first[0] | {"seed": 8, "status": "weak", "N* held": True, "width of N*": 0.5}) + "\n")
        file.write('{"case": "grid 10x6, na')  # another process is writing
    again = list(records(cases, range(7, 9), results, named=False))
    assert [r["status"] for r in again] == ["refused", "weak"] and len(recorded(results)) == 2
    found = summary("grid 10x6, narrow sizes", again)
    assert found["refused"] == 1 and found["N* held"] == [100.0, 21.9] and found["width of N*"] == 0.5


def test_narrow_sizes_are_refused_and_no_floor_is_not() -> None:
    assert judge_decision(DECISIONS["grid 10x6, narrow sizes"], 0)[0] == "refused"
    assert judge_decision(DECISIONS["grid 6x5, no floor"], 0)[0] != "refused"


@pytest.mark.parametrize(
    ("name", "by"),
    [("grid 6x6, sizes share errors", "N"), ("isoflop 6x6, budgets share errors", "C"),
     ("grid 8x5, trunks share errors", "trunk"), ("grid 6x5, smallest third untuned", "N")],
)  # fmt: skip
def test_the_residuals_choose_what_shares_an_error(name, by) -> None:
    table = simulate(DECISIONS[name], 0)
    error = demanded(fit_law(CHINCHILLA, table.columns, table.loss), table)
    assert error is not None and error.by == by and 0.001 < error.sd < 0.02


def test_shared_errors_are_found_with_the_power_and_the_level_of_an_f_test() -> None:
    """Half of the sweeps of 6 x 6 runs were doubted when the law's own parameters were not taken off first."""

    def low(case: str, seed: int) -> bool:
        table = simulate(DECISIONS[case], seed)
        return demanded(fit_law(CHINCHILLA, table.columns, table.loss), table) is not None

    assert sum(low("grid 6x6, sizes share errors", seed) for seed in range(10)) >= 8
    assert sum(low("isoflop 6x6", seed) for seed in range(10)) <= 3


@pytest.mark.parametrize(
    ("case", "freedom"),
    [("isoflop 6x6", {"C": 4}), ("grid 6x5", {"N": 3, "D": 2}), ("grid 3x3", {}), ("grid 5x3, heavy tails", {"N": 2})],
)
def test_directions_that_the_law_absorbs_are_no_degrees_of_freedom(case, freedom) -> None:
    """A floor and two powers absorb three directions of sizes on a grid, and two of budgets on IsoFLOP curves."""
    table = simulate(DECISIONS[case], 0)
    fitted = fit_law(CHINCHILLA, table.columns, table.loss, every_start=6)
    assert {e.by: e.freedom[0] for e in shared_errors(fitted, table)} == freedom


def test_a_shared_error_makes_a_decision_weak_and_is_said_once() -> None:
    shared = DecisionDraws((), (), "N", 0.002, "runs of one N share an error of 0.20%")
    clear = Spread(**CLEAR, left_out=(19.9, 20.1))
    near = replace(clear, value=1.0, interval=(0.99, 1.01), left_out=(1.0, 1.0))
    d = replace(clear, value=float(np.log(1e20 / 6)) - clear.value)
    for doubts in ((), ("runs of one N share an error of 0.20% of the loss",)):
        found = judge(clear, d, near, 0.01, 1e20, shared, Evidence(doubts=doubts))
        assert found.status == "weak" and len(found.reasons) == 1


def test_shared_errors_widen_the_decision() -> None:
    table = simulate(DECISIONS["grid 6x6, sizes share errors"], 1)
    fits = {"chinchilla": (fit_law(CHINCHILLA, table.columns, table.loss), 1.0)}
    alone = replace(table, labels={"run": np.array([str(k) for k in table.row])})
    by_size = noise_width(draw_decision(fits, table), table)
    by_row = noise_width(draw_decision(fits, alone, cluster="run"), table)
    assert by_size > 1.5 * by_row


def noise_width(drawn: DecisionDraws, table: Table) -> float:
    flops = 10 * float(table.C.max())
    found = spread_of(drawn, lambda law, theta, centre: law.log_optimal_n(theta, centre, flops))
    return found.noise[1] - found.noise[0]


def test_laws_that_holdout_cannot_tell_apart_are_drawn_by_their_share() -> None:
    centre, theta = choose_point()
    wide = Replicates(CHINCHILLA, 0.75, centre, theta, theta + np.linspace(-1, 1, 401)[:, None] * np.eye(5)[0])
    far = Replicates(CHINCHILLA, 0.25, centre, theta + 9 * np.eye(5)[0], np.repeat([theta + 9 * np.eye(5)[0]], 9, 0))
    found = spread_of(DecisionDraws((wide, far), (), "row", 0.0, ""), lambda law, t, c: t[:, 0])
    assert found.noise[1] < 1.1 + theta[0] and found.interval[1] == pytest.approx(theta[0] + 9)
    assert found.law == pytest.approx((theta[0], theta[0] + 9))


def test_left_out_groups_widen_an_interval_only_beyond_what_noise_explains() -> None:
    centre, theta = choose_point()
    noise = Replicates(CHINCHILLA, 1.0, centre, theta, theta + np.linspace(-1, 1, 401)[:, None] * np.eye(5)[0])

    def left_out(swing: float) -> Spread:
        moved = tuple(LeftOut("N", str(k), theta + swing * (-1) ** k * np.eye(5)[0]) for k in range(6))
        return spread_of(DecisionDraws((noise,), moved, "row", 0.0, ""), lambda law, t, c: t[:, 0])

    assert left_out(0.1).stretch == 1 and left_out(0.1).interval == pytest.approx(left_out(0.1).noise, rel=1e-6)
    assert left_out(1.0).stretch > 3 and left_out(1.0).left_out == pytest.approx((theta[0] - 1, theta[0] + 1))


def choose_point():
    table = simulate(CASES["grid-16"], 0)
    fitted = fit_law(CHINCHILLA, table.columns, table.loss)
    return fitted.centre, fitted.theta


def test_weighted_quantiles_are_those_of_repeated_values() -> None:
    random = np.random.default_rng(0)
    values, counts = random.standard_normal(300), random.integers(1, 5, 300)
    expected = np.quantile(np.repeat(values, counts), [0.025, 0.975])
    assert quantiles(values, counts.astype(float)) == pytest.approx(expected, abs=0.05)


CLEAR = {"value": 20.0, "interval": (19.8, 20.2), "noise": (19.8, 20.2), "law": (20.0, 20.0), "stretch": 1.0}


@pytest.mark.parametrize(
    ("log_n", "loss", "waste", "flops", "evidence", "status", "why"),
    [
        ({}, {}, 0.01, 1e20, {}, "certified", ""),
        ({"interval": (19.0, 21.0)}, {}, 0.01, 1e20, {}, "weak", "N* is open"),
        ({"interval": (18.0, 22.0)}, {}, 0.01, 1e20, {}, "refused", "N* is open"),
        ({"interval": (np.nan, 22.0)}, {}, 0.01, 1e20, {}, "refused", "N* is open"),
        ({}, {"interval": (0.9, 1.0)}, 0.01, 1e20, {}, "weak", "the loss is open"),
        ({}, {"interval": (0.8, 1.0)}, 0.01, 1e20, {}, "refused", "the loss is open"),
        ({}, {}, 0.2, 1e20, {}, "weak", "waste 20%"),
        ({}, {}, 0.4, 1e20, {}, "refused", "waste 40%"),
        ({"left_out": (19.0, 20.5)}, {}, 0.01, 1e20, {}, "weak", "leaving one group of runs out"),
        ({"left_out": (17.0, 20.5)}, {}, 0.01, 1e20, {}, "refused", "leaving one group of runs out"),
        ({}, {}, 0.01, 1e20, {"held_out": 0.05}, "weak", "missed held-out larger budgets by 5.0%"),
        ({}, {}, 0.01, 1e20, {"held_out": 0.46}, "refused", "missed held-out larger budgets by 46.0%"),
        ({}, {}, 0.01, 1e20, {"doubts": ("runs of one N",)}, "weak", "doubt: runs of one N"),
        ({}, {}, 0.01, 1e20, {"reasons": ("lack of fit",)}, "weak", "lack of fit"),
        ({}, {}, 0.01, 1e20, {"largest": {"C": 5e18}}, "weak", "the target is 20 times the largest C"),
        ({}, {}, 0.01, 1e20, {"largest": {"C": 5e16}}, "refused", "the target is 2e+03 times the largest C"),
        ({}, {}, 0.01, 1e20, {"largest": {"N": 2e7}}, "weak", "N* is 24.3 times the largest N"),
        ({}, {}, 0.01, 1e20, {"largest": {"D": 1e8}}, "refused", "D* is 344 times the largest D"),
    ],
)  # fmt: skip
def test_every_rule_lowers_the_grade_and_says_so(log_n, loss, waste, flops, evidence, status, why) -> None:
    nothing = DecisionDraws((), (), "row", 0.0, "")
    n = Spread(**{**CLEAR, "left_out": (19.9, 20.1), **log_n})
    at = Spread(**{**CLEAR, "value": 1.0, "interval": (0.99, 1.01), "left_out": (1.0, 1.0), **loss})
    d = replace(n, value=float(np.log(flops / 6)) - n.value)
    found = judge(n, d, at, waste, flops, nothing, Evidence(**evidence))
    assert found.status == status and (not why or why in found.reasons[0]), found.reasons


def test_fits_that_cannot_tell_without_a_size_count_against_the_decision() -> None:
    table = simulate(DECISIONS["grid 3x3"], 0)
    found = judged(study(table, CHINCHILLA), Chosen("chinchilla"))
    assert found.study.certificate.status != "certified"
    assert any("without one N, 3 of 3 fits cannot tell" in r for r in found.study.certificate.reasons)


def test_every_command_gives_the_same_interval_and_grade(tmp_path) -> None:
    table = simulate(DECISIONS["isoflop 6x6"], 3)
    path, saved = written(table, tmp_path / "t.csv"), tmp_path / "fit.json"
    flops = 10 * float((6 * table.N * table.D).max())
    found = answer(path, "--out", str(saved))
    assert found["decision"]["flops"] == pytest.approx(flops) and found["certificate"]["status"] == "certified"
    args = ["--fit", str(saved), "--flops", repr(found["decision"]["flops"]), "--json"]
    asked = json.loads(CliRunner().invoke(optimal, args, catch_exceptions=False).stdout)
    for name in ("N", "D", "tokens_per_parameter", "loss"):
        assert asked["intervals"][name] == pytest.approx(found["decision"][name]["interval"], rel=1e-7)
    assert asked["status"] == "certified" and asked["parts"][0]["what"] == "noise, by row"
    best = found["decision"]["N"]["value"], found["decision"]["D"]["value"]
    args = ["--fit", str(saved), "--params", str(round(best[0])), "--tokens", str(round(best[1])), "--json"]
    made = CliRunner().invoke(forecast, [*args, "--ledger", str(tmp_path / "f.jsonl")], catch_exceptions=False)
    low, high = json.loads(made.stdout)["interval"]
    least, most = found["decision"]["loss"]["interval"]
    assert 0.9 * (most - least) < high - low < 2 * (most - least)  # a run there has its own scatter besides
    text = CliRunner().invoke(fit, [str(path)], catch_exceptions=False).output
    assert "CERTIFIED" in text and "identified: E, alpha, beta" in text and "noise, by row" in text


def test_a_decision_that_is_refused_far_away_may_be_clear_nearby(tmp_path) -> None:
    table = simulate(DECISIONS["grid 6x5"], 0)
    path, saved = written(table, tmp_path / "t.csv"), tmp_path / "fit.json"
    far = answer(path, "--law", "chinchilla", "--target", "1e25", "--out", str(saved))
    assert far["certificate"]["status"] == "refused" and any(
        "the target is" in r for r in far["certificate"]["reasons"]
    )
    near = decide(load_fit(saved), 1e21).verdict
    assert near is not None and near.status != "refused"
    with pytest.raises(
        UserError, match=r"says nothing of 1.00e25 FLOPs: .*times the largest C.*Ask for a budget nearer"
    ):
        CliRunner().invoke(optimal, ["--fit", str(saved), "--flops", "1e25"], catch_exceptions=False)


def test_holdout_is_resampled_and_the_shares_say_how_often_each_law_wins() -> None:
    table = load(shared_data("scaling/olmo_ladder_final.csv"), {"N": "N_nonembed", "D": "tokens", "loss": "ce_c4_en"})
    chosen = choose_law(table)
    assert chosen.law == "outer" and sum(chosen.near.values()) == pytest.approx(1)
    assert set(chosen.fits) == set(chosen.near) <= set(FIXED)
