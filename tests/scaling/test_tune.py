"""Tuning: which values are tried, what they tell, and the law that comes out, on surfaces whose optimum is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.early_stopping import RULES, pairs
from benchmarks.tune import SURFACES, TOGETHER, WIDE_SURFACES, Surface, tune_one, tune_together
from launch.scaling.tune.decide import Size, Spending, next_runs, smallest_two_and_middle
from launch.scaling.tune.law import fit_setting
from launch.scaling.tune.parabola import Trial, fit_parabola
from launch.scaling.tune.search import RATE, Bracket, found, next_values
from trainer.contract.errors import UserError

losses = st.one_of(st.floats(0.0, 3.0), st.just(math.inf))
trials = st.lists(st.builds(Trial, st.integers(-12, 12).map(lambda k: k * RATE.grid), losses), max_size=7)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda s: s.name)
def test_the_chosen_rate_costs_less_than_a_thousandth_of_the_loss(surface: Surface) -> None:
    each = [tune_one(surface, seed, 5) for seed in range(60)]
    believed = [one.regret for one in each if not one.warned]
    assert np.mean(believed) < 1e-3 and max(one.runs for one in each) <= 5
    assert len(believed) > 0.6 * len(each)


@pytest.mark.parametrize("surface", WIDE_SURFACES, ids=lambda s: s.name)
def test_a_batch_or_weight_decay_costs_little_more(surface: Surface) -> None:
    each = [tune_one(surface, seed, 5) for seed in range(40)]
    believed = [one.regret for one in each if not one.warned]
    assert np.mean(believed) < 1.5e-3 and max(one.runs for one in each) <= 5
    assert len(believed) > 0.5 * len(each)


def test_knobs_that_are_tuned_one_after_the_other_come_to_the_optimum() -> None:
    each = [tune_together(TOGETHER[0], seed, 5) for seed in range(30)]
    believed = [one.regret for one in each if not one.warned]
    assert np.mean(believed) < 1e-3 and len(believed) > 20 and max(one.runs for one in each) <= 15


def test_what_is_not_tuned_is_said() -> None:
    """Of surfaces that five runs cannot tune, those that are believed are right all the same."""
    hopeless = Surface("far", 0.002, off=10.0, diverges=1.0)
    each = [tune_one(hopeless, seed, 5) for seed in range(60)]
    assert sum(one.warned for one in each) > 20
    assert np.mean([one.regret for one in each if not one.warned]) < 1e-3


def test_why_no_run_is_stopped_early() -> None:
    """By its gap at one step a winner is stopped, most often at a higher rate; at a lower one its lag tells."""
    seeds = range(7)  # a schedule each
    _, stopped, won, worst = pairs(seeds, RULES["gap"], higher=True)
    assert won > 0.2 * stopped and worst > 0.1
    _, stopped, won, _ = pairs(seeds, RULES["fall and lag"], higher=False)
    assert stopped > 100 and won == 0


@settings(deadline=None)
@given(
    st.floats(-4, 0),
    st.floats(0, 3),
    st.lists(st.one_of(st.floats(0.0, 3.0), st.just(math.inf)), min_size=9, max_size=9),
    st.integers(3, 8),
)
def test_no_value_lies_beyond_a_bound_and_every_search_ends(
    low: float, high: float, answers: list[float], most: int
) -> None:
    bracket, tried = Bracket(1.0, 2.0, low, high), list[Trial]()
    while values := next_values(tried, 0.0, most, bracket):
        for x in values:
            assert low - 0.5 < x < high + 0.5 and x == bracket.snapped(x)
            assert not bracket.is_tried(x, tried)
            tried.append(Trial(min(max(x, low), high), answers[len(tried)]))
    assert len(tried) <= most


@settings(deadline=None)
@given(trials, st.floats(-3, 3), st.integers(3, 8))
def test_any_trials_have_an_answer_that_is_new_and_within_the_runs(
    tried: list[Trial], centre: float, most: int
) -> None:
    values = next_values(tried, centre, most)
    assert len(values) <= max(most - len(tried), 0)
    assert len(set(values)) == len(values) and not {t.x for t in tried} & set(values)
    assert all(x == RATE.snapped(x) for x in values), "a question asked again has the same answer"
    best = found(tried)
    assert (best is None) == (not any(math.isfinite(t.log_loss) for t in tried))


@settings(deadline=None)
@given(trials)
def test_no_value_is_chosen_between_what_ended_and_what_diverged(tried: list[Trial]) -> None:
    best, lost = found(tried), [t.x for t in tried if math.isinf(t.log_loss)]
    if best is not None and lost:
        assert best.x <= max(t.x for t in tried if math.isfinite(t.log_loss))


@settings(deadline=None)
@given(st.permutations([Trial(-1.5, 0.02), Trial(0.0, 0.0), Trial(1.5, 0.01), Trial(3.0, math.inf)]))
def test_the_order_of_trials_does_not_matter(tried: list[Trial]) -> None:
    first = [Trial(-1.5, 0.02), Trial(0.0, 0.0), Trial(1.5, 0.01), Trial(3.0, math.inf)]
    assert next_values(tried, 0.0, 5) == next_values(first, 0.0, 5)
    assert found(tried) == found(first)


def test_a_parabola_without_noise_is_found() -> None:
    fit = fit_parabola([Trial(x, 1.0 + 0.02 * (x - 0.4) ** 2) for x in (-1.5, 0.0, 1.5)])
    assert (
        fit is not None and fit.best == pytest.approx(0.4, abs=0.05) and fit.curvature == pytest.approx(0.02, rel=0.2)
    )


def test_an_optimum_past_the_edge_is_followed() -> None:
    tried: list[Trial] = []
    while values := next_values(tried, 0.0, 8):
        tried += [Trial(x, 0.01 * (x - 6) ** 2) for x in values]
    best = found(tried)
    assert best is not None and not best.problem and best.x == pytest.approx(6, abs=0.3)
    short = found([Trial(x, 0.01 * (x - 6) ** 2) for x in (-1.5, 0.0, 1.5)])
    assert short is not None and short.problem == "the best value is the highest that was tried"


def ladder(best: list[float], *, own_power: float = -0.4) -> list[Size]:
    """Return sizes that double, with the octaves from their own rate to the best one."""
    return [
        Size(f"size {k}", 1e4 * 2**k, 2e5 * 2**k, 4096, 1e9 * 4**k, 0.02 * (2**k) ** own_power)
        for k in range(len(best))
    ]


def tuned(sizes: list[Size], best: list[float], spending: Spending, rise: float = 0.01) -> tuple[list[Size], str]:
    """Answer every run that is asked for by the surface, until none is."""
    while (step := next_runs(sizes, spending)).runs:
        for k, x in step.runs:
            trial = Trial(x, 1 + rise * (x - best[k]) ** 2)
            sizes[k] = replace(sizes[k], tried=(*sizes[k].tried, trial))
    return sizes, step.stopped


def test_a_law_of_the_best_rate_is_found_and_said_to_be_log_linear() -> None:
    best = [0.5, 0.8, 1.1]
    sizes, stopped = tuned(ladder(best), best, Spending(1e15, 5))
    law = fit_setting(sizes, "s")
    assert not stopped and all(len(size.tried) <= 5 for size in sizes)
    assert set(law.powers) == {"N"}, "D grows with N: one power is all that can be told"
    assert law.powers["N"] == pytest.approx(-0.4 + 0.3, abs=0.05)
    low, high = law.intervals["N"]
    assert low < -0.1 < high and law.curvature.startswith("log-linear is not rejected")


def test_a_bent_optimum_is_said() -> None:
    best = [0.0, 2.0, 0.0]
    law = fit_setting(tuned(ladder(best), best, Spending(1e15, 8), rise=0.04)[0], "s")
    assert law.curvature.startswith("bent")


def test_two_sizes_test_no_curvature() -> None:
    law = fit_setting(tuned(ladder([0.0, 0.0]), [0.0, 0.0], Spending(1e15, 5))[0], "s")
    assert law.curvature.startswith("not testable: 2 sizes")


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 3e10), st.integers(3, 6))
def test_the_budget_is_kept(budget: float, most: int) -> None:
    sizes, stopped = tuned(ladder([0.3, 0.3]), [0.3, 0.3], Spending(budget, most))
    assert sum(size.spent for size in sizes) <= budget
    assert stopped or all(len(size.tried) >= 3 for size in sizes)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_an_interrupted_tuning_goes_on_with_the_same_runs(data: st.DataObject) -> None:
    """Whatever part of a decision has ended when it is asked again, in the end the same runs were made."""
    best = [1.2, 0.4, -0.3]
    whole = tuned(ladder(best), best, Spending(1e15, 5))[0]
    sizes = ladder(best)
    while runs := next_runs(sizes, Spending(1e15, 5)).runs:
        for k, x in data.draw(st.lists(st.sampled_from(runs), unique=True)) or runs[:1]:
            sizes[k] = replace(sizes[k], tried=(*sizes[k].tried, Trial(x, 1 + 0.01 * (x - best[k]) ** 2)))
    assert [{t.x for t in s.tried} for s in sizes] == [{t.x for t in s.tried} for s in whole]


def test_sizes_without_an_optimum_are_named() -> None:
    sizes = ladder([0.0, 0.0])
    edge = tuple(Trial(x, 1 - 0.01 * x) for x in (-1.5, 0.0, 1.5))
    lost = tuple(Trial(x, math.inf) for x in (-1.5, 0.0, 1.5))
    with pytest.raises(UserError, match=r"size 0: the best value is the highest.*size 1: all 3 runs diverged.*--sizes"):
        fit_setting([replace(sizes[0], tried=edge), replace(sizes[1], tried=lost)], "s")


def test_the_smallest_two_and_one_in_the_middle_are_chosen() -> None:
    assert smallest_two_and_middle([1, 2, 3]) == [0, 1, 2]
    assert smallest_two_and_middle([5, 1, 4, 2, 3]) == [1, 3, 2]
