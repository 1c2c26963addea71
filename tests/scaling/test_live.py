"""The live law on simulated runs of a known law: its band, its alarms, its forecasts, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from launch.cli import escala
from launch.scaling.live import limits
from launch.scaling.live.batches import shared_batches
from launch.scaling.live.ledger import finished_runs
from launch.scaling.live.make import expected_curve
from launch.scaling.live.runs import Finished, Kind, kind_of, steps_before_skipped
from tests.scaling.live_runs import BATCH, LIKE, NOISE, batches, kind, ladder, log_loss, run
from trainer.config.load import run_from_values
from trainer.contract.errors import UserError
from trainer.contract.expected import ExpectedCurve
from trainer.contract.leaving import Follower, GrowthFollower
from trainer.contract.run_dir import RunDir
from trainer.plan.length import ramp_of, tokens_before


@pytest.fixture(autouse=True)
def _fewer_simulated_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make limits from a quarter of the runs: they scatter by a twentieth then, and a test takes a second less."""
    monkeypatch.setattr(limits, "SIMULATED", 2000)


def followed(curve: ExpectedCurve, one: Finished, until: float = math.inf) -> tuple[list[float], int | None, Follower]:
    """Return how far off each point is, the step at which the run left its band, and the follower."""
    follower, off, left = Follower(curve, until=until), [], None
    for step, value in zip(one.steps, one.log_loss, strict=True):
        seen = follower.see(int(step), math.exp(value))
        off.append(seen.off)
        left = seen.step if left is None and seen.test is not None else left
    return off, left, follower


def test_the_band_holds_a_held_out_run_and_no_false_alarm_is_raised() -> None:
    inside, alarms, runs = [], 0, 0
    for seed in range(3):
        for N, steps in ((5e4, 400), (3e4, 250), (8e4, 600)):
            curve = expected_curve(
                ladder(seed=seed), kind(N, steps, seed=seed % 2)
            )  # of the same order, and of another
            for again in range(4):
                off, left, _ = followed(curve, run(kind(N, steps, seed=seed % 2), 500 + 10 * seed + again))
                inside.append(np.mean(np.abs(off) < 1.96))
                alarms, runs = alarms + (left is not None), runs + 1
    assert np.mean(inside) >= 0.9
    assert (alarms, runs) == (0, 36)


def test_a_run_that_goes_wrong_leaves_its_band_soon_after() -> None:
    curve = expected_curve(ladder(), kind(5e4, 400))
    from_the_beginning = followed(curve, run(kind(5e4, 400), 9, shift=0.04))[1]
    half_way = followed(curve, run(kind(5e4, 400), 9, shift=0.02 * (np.arange(400) >= 200)))[1]
    assert from_the_beginning is not None and from_the_beginning <= 60
    assert half_way is not None and 200 < half_way <= 260


def test_the_first_quarter_forecasts_the_end_better_than_no_steps_do() -> None:
    errors, before, covered = [], [], []
    for seed in range(8):
        wanted = kind(5e4, 400)
        curve, one = expected_curve(ladder(seed=seed), wanted), run(wanted, 100 + seed)
        _, _, follower = followed(curve, dataclasses.replace(one, steps=one.steps[:100], log_loss=one.log_loss[:100]))
        mean, sd = follower.final()
        errors.append(abs(mean - one.final))
        before.append(abs(curve.final_mean - one.final))
        covered.append(abs(mean - one.final) < 1.96 * sd)
    assert np.mean(errors) < 0.005
    assert np.mean(errors) < np.mean(before)
    assert np.mean(covered) >= 0.75


def test_what_a_batch_adds_is_known_from_runs_that_read_it() -> None:
    same = ladder(lengths=(300,), sizes=(2e4, 3e4, 4e4, 6e4, 8e4))
    found = shared_batches(same)
    assert found is not None
    truth = batches(0, 300)
    estimated = np.array([found.added[step] for step in range(1, 301)])
    assert np.corrcoef(estimated, truth)[0, 1] > 0.9
    curve, other = expected_curve(same, kind(5e4, 300)), expected_curve(same, kind(5e4, 300, seed=1))
    assert np.median(curve.noise_of_known) < 2 * NOISE
    assert np.median(curve.noise) > 0.7 * BATCH
    assert other.batches == {}, "another seed reads other batches"


@pytest.mark.parametrize("lengths", [(300,), (150, 300, 600)])
def test_a_run_that_left_data_out_is_not_compared_with_batches_that_it_did_not_read(lengths: tuple[int, ...]) -> None:
    read, order = np.r_[1:101, 111:311], batches(0, 310)
    one = dataclasses.replace(run(kind(5e4, 300), 77, shift=order[read - 1] - order[:300]), until=100)
    same = ladder(lengths=lengths, sizes=(2e4, 3e4, 4e4, 6e4, 8e4))
    curve = expected_curve(same, kind(5e4, 300))
    assert followed(curve, one, until=100)[1] is None
    assert followed(curve, one)[1] is not None, "the batches of other steps are no measure of it"
    found = shared_batches([*same[:1], one])
    assert found is not None and set(found.added) <= set(range(1, 101))


def test_where_a_run_first_left_data_out_is_read_from_its_settings_and_rollbacks(tmp_path: Path) -> None:
    values = {"model": {"size": "12k"}, "data": {}, "batch": {"tokens_per_step": 2048}, "steps": 9}
    config, run_dir = run_from_values(values, "here"), RunDir(tmp_path)
    assert steps_before_skipped(run_dir, config) == math.inf
    config = run_from_values({**values, "skip_steps": ["15:17"]}, "here")
    assert steps_before_skipped(run_dir, config) == 15
    run_dir.rollbacks.write_text(json.dumps({"rollbacks": [{"at": 20, "begin": 12, "end": 20}]}))
    assert steps_before_skipped(run_dir, config) == 12
    run_dir.rollbacks.write_text(json.dumps({"rollbacks": [{"at": 20}]}))
    with pytest.raises(UserError, match=r"rollbacks\.json cannot be read"):
        steps_before_skipped(run_dir, config)


def test_points_between_logged_steps_are_not_needed() -> None:
    every = 5
    curve = expected_curve(
        [run(r.kind, n, every=every) for n, r in enumerate(ladder())], kind(5e4, 400), logged_every=5
    )
    off, left, _ = followed(curve, run(kind(5e4, 400), 3, every=every))
    assert left is None and np.mean(np.abs(off) < 1.96) > 0.85


def with_norms(one: Finished, number: int, decay: float = 0.0) -> Finished:
    """Add the norm of its matrices: growth that differs by .5 % between runs, less what more decay takes away."""
    share, dice = one.steps / one.kind.steps, np.random.default_rng(number)
    growth = (0.2 - 0.01 * math.log(one.kind.N)) * np.sqrt(share) + 0.005 * dice.standard_normal() * share
    return dataclasses.replace(one, norms=(one.steps, 0.5 * math.log(one.kind.N) + growth - decay * share))


def norm_left(curve: ExpectedCurve, one: Finished) -> float | None:
    """Return after which share of the run its norm left the band."""
    assert curve.growth is not None and one.norms is not None
    follower = GrowthFollower(curve)
    off = [follower.see(int(step), math.exp(value)) for step, value in zip(*one.norms, strict=True)]
    left = [step for step, z in zip(one.norms[0], off, strict=True) if z is not None and abs(z) > curve.growth.limit]
    return float(left[0]) / one.kind.steps if left else None


def test_the_norm_of_matrices_tells_a_weight_decay_that_the_loss_does_not() -> None:
    plain = expected_curve(ladder(), kind(5e4, 400))
    assert plain.growth is None, "runs that recorded no norms"
    curve = expected_curve([with_norms(one, n) for n, one in enumerate(ladder())], kind(5e4, 400))
    undisturbed = [norm_left(curve, with_norms(run(kind(5e4, 400), n), 900 + n)) for n in range(20)]
    assert undisturbed == [None] * 20
    assert curve.limits.level > plain.limits.level and curve.limits.drift > plain.limits.drift, "three tests share"
    left = norm_left(curve, with_norms(run(kind(5e4, 400), 1), 901, decay=0.8))
    assert left is not None and left < 0.15


def test_the_curve_has_the_shape_of_the_law() -> None:
    curve = expected_curve(ladder(), kind(5e4, 400, seed=7))
    share = np.array(curve.steps)[1:] / 400
    assert np.abs(np.array(curve.mean)[1:] - log_loss(kind(5e4, 400), share)).max() < 0.03


def test_a_law_moves_the_end_and_the_curve_with_it() -> None:
    plain = expected_curve(ladder(), kind(5e4, 400))
    moved = expected_curve(ladder(), kind(5e4, 400), law=(plain.final_mean + 0.01, 0.001))
    assert moved.final_mean == pytest.approx(plain.final_mean + 0.01)
    assert 0.001 < moved.mean[-1] - plain.mean[-1] < 0.02
    assert Follower(moved).final()[1] < Follower(plain).final()[1]


def test_a_follower_is_a_regression_on_the_modes() -> None:
    curve = expected_curve(ladder(), kind(5e4, 400))
    one, follower = run(kind(5e4, 400), 4), Follower(curve)
    for step, value in zip(one.steps, one.log_loss, strict=True):
        follower.take(step, np.array([value]))
    at = [Follower(curve).at(step) for step in one.steps]
    mean, modes, noise = np.array([a[0] for a in at]), np.array([a[1] for a in at]), np.array([a[2] for a in at])
    weighted = modes / noise[:, None] ** 2
    covariance = np.linalg.inv(np.eye(modes.shape[1]) + weighted.T @ modes)
    expected = curve.final_mean + np.array(curve.final_modes) @ covariance @ weighted.T @ (one.log_loss - mean)
    assert follower.final()[0] == pytest.approx(expected, abs=1e-9)
    assert follower.final()[1] == pytest.approx(
        math.sqrt(np.array(curve.final_modes) @ covariance @ np.array(curve.final_modes)), rel=1e-6
    )


def test_what_cannot_be_foretold_is_refused_by_name() -> None:
    some = ladder()
    with pytest.raises(UserError, match=r"no finished run is like wanted.*schedule"):
        expected_curve(some, dataclasses.replace(kind(5e4, 400), like={**LIKE, "schedule": {"kind": "wsd"}}))
    with pytest.raises(UserError, match=r"3 finished runs are like wanted, and its curve needs 5"):
        expected_curve([some[0], some[4], some[8]], kind(5e4, 400))
    with pytest.raises(UserError, match=r"1,000,000 parameters of the body, 12\.5 times beyond"):
        expected_curve(some, kind(1e6, 400))
    with pytest.raises(UserError, match="all 3 finished runs like it have"):
        expected_curve(ladder(lengths=(300,)), kind(5e4, 400))
    with pytest.raises(UserError, match="no finished run is like"):
        expected_curve([], kind(5e4, 400))


def with_rate(one: Kind, rate: dict[str, object]) -> Kind:
    return dataclasses.replace(one, like={**LIKE, "optim": rate})


@pytest.mark.parametrize(
    ("rates", "mine", "said"),
    [
        ([{"lr": "auto", "lr_factor": 0.5}], {"lr": "auto", "lr_factor": 1.5}, "optim.lr_factor: 0.5 there, 1.5 here"),
        ([{"lr": 0.01}, {"lr": 0.004}, {"lr": 0.007}], {"lr": 0.03}, "optim.lr: 0.004 to 0.01 there, 0.03 here"),
        ([{"lr": 0.01}, {"lr": 0.004}], {"lr": 0.006}, ""),
        ([{"lr": "auto"}], {"lr": 0.01}, "optim.lr: auto there, 0.01 here"),
        ([{"lr": "auto"}], {"lr": "auto"}, ""),
    ],
)
def test_a_learning_rate_that_no_finished_run_had_is_said(
    rates: list[dict[str, object]], mine: dict[str, object], said: str
) -> None:
    runs = [
        dataclasses.replace(one, kind=with_rate(one.kind, rates[number % len(rates)]), data_hash="abc")
        for number, one in enumerate(ladder())
    ]
    curve = expected_curve(runs, with_rate(kind(5e4, 400), mine))
    assert (curve.other_rate, curve.data_hash) == (said, "abc")
    runs[0] = dataclasses.replace(runs[0], data_hash="abd")
    assert expected_curve(runs, with_rate(kind(5e4, 400), mine)).data_hash is None


def test_tokens_of_a_rising_batch_are_counted_as_they_are() -> None:
    batch = {"tokens_per_step": 1024, "warmup": {"doublings": 2, "tokens": 8192}}
    model = {"size": "12k", "context_length": 64}
    config = run_from_values({"model": model, "data": {}, "batch": batch, "steps": 40}, "here")
    ramp = ramp_of(config)
    each = [ramp.at(step) * 64 for step in range(40)]
    assert kind_of(config, "rising").D == sum(each) < 40 * 1024
    assert [tokens_before(config, step) for step in (0, 1, 20)] == [0, each[0], sum(each[:20])]


def test_a_damaged_curve_is_refused_and_a_sound_one_survives_its_file(tmp_path: Path) -> None:
    curve, path = expected_curve(ladder(), kind(5e4, 400)), tmp_path / "expected.json"
    curve.save(path)
    assert ExpectedCurve.load(path) == curve
    grown = expected_curve([with_norms(one, n) for n, one in enumerate(ladder())], kind(5e4, 400))
    grown.save(path)
    assert ExpectedCurve.load(path) == grown
    before = {key: value for key, value in json.loads(path.read_text()).items() if key != "growth"}
    path.write_text(json.dumps(before))
    assert ExpectedCurve.load(path).growth is None, "one that was written before norms were followed"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "noise": values["noise"][1:]}))
    with pytest.raises(UserError, match="is not an expected curve"):
        ExpectedCurve.load(path)
    with pytest.raises(UserError, match="no expected curve"):
        ExpectedCurve.load(tmp_path / "none.json")


def test_a_ledger_without_curves_says_what_to_do(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    with pytest.raises(UserError, match="no ledger"):
        finished_runs(tmp_path)
    ledger.write_text('{"cell": "a", "run_dir": "x", "status": "failed", "eval_set": "none"}\n')
    with pytest.raises(UserError, match="has no finished run"):
        finished_runs(ledger)
    ledger.write_text(f'{{"cell": "a", "run_dir": "{tmp_path / "a"}", "status": "done", "eval_set": "held_out"}}\n')
    with pytest.raises(UserError, match=r"no run of .* has a curve.*there is no file .*config.yaml"):
        finished_runs(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--curve", "tiny", "--final", "x"], "give one of them"),
        (["--curve", "configs/run/tiny.yaml"], "--from is missing"),
        (["--from", "x"], "--from has no effect without --curve or --final"),
        (["--final", "nowhere"], "no run 'nowhere' under runs"),
        (["--final", "nowhere", "--set", "steps=1"], "--set has no effect with --final"),
        (["--curve", "tiny", "--from", "x", "--runs", "y"], "--runs has no effect with --curve"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(words: list[str], said: str) -> None:
    result = CliRunner().invoke(escala, ["forecast", *words])
    assert isinstance(result.exception, UserError) and said in str(result.exception)
