"""The shift between two ladders: right without noise, exact where it can be, and its intervals hold the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from launch.scaling.compare.power import power
from launch.scaling.compare.rungs import Rung, samples
from launch.scaling.compare.seeds import scatter, seed_noise
from launch.scaling.compare.shift import shift
from launch.scaling.compare.slope import fit_slope
from launch.scaling.compare.verdict import half_width, judge
from launch.scaling.fit.fit import fit_law
from launch.scaling.fit.objective import SQUARES
from launch.scaling.laws.groups import SharedExponents, indicator_columns
from launch.scaling.laws.powers import ONE_VARIABLE
from tests.scaling.ladders import E, law, rungs
from trainer.contract.errors import UserError


@pytest.mark.parametrize("asymptote", [E, None])
@pytest.mark.parametrize("multiplier", [1.0, 1.05, 1.2, 0.8])
@pytest.mark.parametrize("sizes", [3, 6])
def test_without_noise_the_multiplier_is_found_at_every_rung(asymptote, multiplier, sizes):
    found = shift(rungs([multiplier] * sizes), asymptote)
    near = 1e-3 if asymptote else 0.015  # a parabola is not quite the law
    assert np.exp(found.common.value) == pytest.approx(multiplier, rel=near)
    assert [np.exp(one.value) for one in found.rungs] == pytest.approx([multiplier] * sizes, rel=near)


def test_a_dearer_variant_is_judged_by_its_own_flops():
    """As good as the base with as many FLOPs, each of which costs 1.3: the base needs 1.2 times those."""
    found = shift(rungs([1.2] * 4, dearer=1.3), E)
    assert np.exp(found.common.value) == pytest.approx(1.2, rel=2e-3)


def test_a_trend_is_told_from_a_common_shift():
    per_rung = [1.4, 1.3, 1.2, 1.1]
    found = shift(rungs(per_rung, noise=1e-5, seeds=3), E)
    assert [np.exp(one.value) for one in found.rungs] == pytest.approx(per_rung, rel=0.015)
    wanted = float(np.polyfit(np.log(4.0) * np.arange(4), np.log(per_rung), 1)[0])
    assert found.trend.value == pytest.approx(wanted, rel=0.1) and found.trend.interval[1] < 0
    assert found.differs, "by far more than seeds explain"


def test_pairs_cancel_what_they_share():
    with_shared = rungs([1.1] * 4)
    random = np.random.default_rng(3)
    moved = []
    for rung in with_shared:
        by = float(np.exp(0.01 * random.standard_normal()))
        sides = [replace(s, losses={k: v * by for k, v in s.losses.items()}) for s in (rung.base, rung.variant)]
        moved.append(Rung(*sides))
    assert samples(moved).difference == pytest.approx(samples(with_shared).difference)


def test_other_seeds_are_no_pairs_and_two_of_each_are_worth_their_noise():
    base = rungs([1.0] * 3, noise=0.01, seeds=2)
    apart = [
        Rung(
            r.base,
            replace(r.variant, losses=dict(zip([("8", "8"), ("9", "9")], r.variant.losses.values(), strict=False))),
        )
        for r in base
    ]
    found = samples(apart)
    assert not found.paired and found.count == pytest.approx([2, 2, 2]) and found.freedom == 6
    logs = [np.log(list(side.losses.values())) for r in base for side in (r.base, r.variant)]
    assert found.squares == pytest.approx(2 * sum(np.var(one, ddof=1) for one in logs))


def test_with_one_slope_the_interval_is_that_of_a_t_test():
    """On a power law without a floor every rung has one slope, and the shift is the mean difference over it."""
    base = rungs([1.0] * 5)
    random = np.random.default_rng(11)
    paired = []
    for k, rung in enumerate(base):
        one, other = (10 * (1e16 * 4.0**k) ** -0.05 * float(np.exp(0.002 * random.standard_normal())) for _ in range(2))
        paired.append(
            Rung(replace(rung.base, losses={("0", "0"): one}), replace(rung.variant, losses={("0", "0"): other}))
        )
    found = shift(paired, 1e-9)
    low, high = stats.ttest_1samp(samples(paired).difference, 0).confidence_interval(0.9)
    slope = found.slope.values[0]
    assert found.common.interval == pytest.approx((high / slope, low / slope), rel=0.02)


@given(st.integers(0, 10_000), st.floats(0.7, 1.5), st.integers(1, 3), st.sampled_from([None, E]))
@settings(max_examples=40, deadline=None)
def test_swapping_the_sides_turns_the_multiplier_over(seed, multiplier, seeds, asymptote):
    there = rungs([multiplier] * 4, noise=0.002, seeds=seeds, seed=seed)
    back = [Rung(rung.variant, rung.base) for rung in there]
    one, other = shift(there, asymptote), shift(back, asymptote)
    assert other.common.value == pytest.approx(-one.common.value, abs=1e-9)
    assert other.common.interval == pytest.approx((-one.common.interval[1], -one.common.interval[0]), abs=1e-9)


def test_it_agrees_with_one_law_through_both_ladders():
    """`escala fit --law shared-exponents` has the same multiplier as rho_C, from all losses at once."""
    pairs = rungs([1.15] * 6, noise=0.0005, seeds=2, seed=5)
    C, loss, group = [], [], []
    for rung in pairs:
        for name, side in (("base", rung.base), ("variant", rung.variant)):
            for value in side.losses.values():
                C.append(side.flops)
                loss.append(value)
                group.append(name)
    columns = {"C": np.array(C), **indicator_columns(np.array(group), "base")}
    fitted = fit_law(SharedExponents(ONE_VARIABLE["power-C-floor"], ("variant",)), columns, np.array(loss), SQUARES)
    found = shift(pairs)
    assert np.exp(found.common.value) == pytest.approx(fitted.values["rho_C[variant]"], rel=0.01)


@pytest.mark.parametrize(("sizes", "seeds"), [(3, 1), (5, 2)])
def test_intervals_hold_the_truth_and_nothing_is_seldom_promoted(sizes, seeds):
    """A small cousin of `python -m benchmarks.compare`: 300 comparisons, shares within three standard errors."""
    held, promoted = [], []
    for seed in range(300):
        found = shift(rungs([1.0] * sizes, noise=0.003, seeds=seeds, seed=seed))
        held.append(found.common.interval[0] <= 0 <= found.common.interval[1])
        promoted.append(judge(found).word == "promote")
    assert np.mean(held) == pytest.approx(0.9, abs=3 * (0.09 / 300) ** 0.5)
    assert np.mean(promoted) <= 0.05 + 3 * (0.0475 / 300) ** 0.5


def test_verdicts():
    assert judge(shift(rungs([1.2] * 4, noise=0.001, seeds=2))).word == "promote"
    assert judge(shift(rungs([0.8] * 4, noise=0.001, seeds=2))).word == "reject"
    none = shift(rungs([1.0] * 4, noise=0.001, seeds=2, seed=1))
    assert judge(none).word == "cannot tell"
    assert judge(none, worth=1.2).word == "reject", "whatever it is worth, it is less than that"
    falling = judge(shift(rungs([1.5, 1.35, 1.2, 1.0], noise=0.002, seeds=2)))
    assert falling.word == "cannot tell" and "the trend leads to" in falling.reason
    assert falling.seeds is None and falling.larger == pytest.approx(1e16 * 4.0**4), "a larger rung tells, seeds do not"
    rising = judge(shift([Rung(r.variant, r.base) for r in rungs([1.5, 1.35, 1.2, 1.0], noise=0.002, seeds=2)]))
    assert rising.word == "cannot tell", "nor is what gets better with compute rejected"


def test_the_seeds_that_would_tell_are_the_fewest():
    found = shift(rungs([1.04] * 4, noise=0.003, seeds=1, seed=4))
    verdict = judge(found)
    assert verdict.word == "cannot tell" and verdict.seeds is not None
    assert half_width(found, verdict.seeds) < abs(found.common.value) <= half_width(found, verdict.seeds - 1)


def test_what_a_ladder_can_see_is_promoted_in_80_of_100():
    """The table's smallest multiplier, simulated: the noise is the ladder's own, and known."""
    base = rungs([1.0] * 4, noise=0.002, seeds=40, seed=1)
    flops = [rung.base.flops for rung in base]
    seen = power([rung.base.losses for rung in base], flops).visible[2]
    words = [judge(shift(rungs([seen] * 4, noise=0.002, seeds=2, seed=s))).word for s in range(300)]
    assert np.mean([word == "promote" for word in words]) == pytest.approx(0.8, abs=0.08)


def test_noise_of_initial_values_and_order_are_told_apart_where_seeds_are_crossed():
    random = np.random.default_rng(0)
    ladder = []
    for _ in range(300):
        init, order = random.normal(0, 0.003, 3), random.normal(0, 0.001, 3)
        ladder.append({(str(i), str(o)): float(init[i] + order[o]) for i in range(3) for o in range(3)})
    found = seed_noise(ladder)
    assert found.init == pytest.approx(0.003, rel=0.1) and found.order == pytest.approx(0.001, rel=0.1)
    assert found.both == pytest.approx(0.01**0.5 * 0.001**0.5, rel=0.1)
    assert scatter(ladder[0]).count == 3, "nine runs with three initial values are worth three"
    together = seed_noise([{(str(s), str(s)): float(random.normal()) for s in range(4)} for _ in range(3)])
    assert together.freedom == 9 and np.isnan(together.init) and np.isnan(together.order)


def test_seeds_that_are_not_crossed_scatter_as_any_sample_does():
    values = {(str(k), str(k)): v for k, v in enumerate([1.0, 1.2, 0.7, 1.1])}
    assert scatter(values).variance == pytest.approx(np.var(list(values.values()), ddof=1))
    assert (scatter(values).freedom, scatter(values).count) == (3, 4)


def test_what_no_slope_can_be_had_from_is_refused():
    flat = [Rung(replace(r.base, losses={("0", "0"): 3.0}), replace(r.variant, losses={("0", "0"): 3.0}))
            for r in rungs([1.0] * 4)]  # fmt: skip
    with pytest.raises(UserError, match="the loss hardly falls with compute"):
        shift(flat)
    with pytest.raises(UserError, match="not below the lowest mean loss"):
        shift(rungs([1.0] * 4), 3.3)


def test_the_slope_is_that_of_the_law():
    found = samples(rungs([1.0] * 5))
    exact = [-steepness(np.exp(x)) for x in found.x]
    assert fit_slope(found, E).values == pytest.approx(exact, rel=1e-6)
    assert fit_slope(found).values == pytest.approx(exact, rel=0.02)


def steepness(flops: float) -> float:
    """Minus d log L / d log C of the simulated law."""
    return 0.095 * (1 - E / law(flops))
