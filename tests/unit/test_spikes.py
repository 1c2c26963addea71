"""Spikes are found where values jump, not where they fall, drift or are noisy; rules ask for what they say."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.sections import GuardConfig
from trainer.guard.health import HALT, ROLL_BACK, Health
from trainer.guard.spikes import GRAD_NORM, LOSS, Spikes


def curve(steps: int, seed: int = 0) -> list[tuple[float, float]]:
    """Return losses and gradient norms like those of a run: a power law with noise, norms that differ by factors."""
    random = np.random.default_rng(seed)
    losses = 2.5 + 6 * np.arange(1, steps + 1) ** -0.4 + random.normal(0, 0.03, steps)
    norms = np.exp(random.normal(-1 - 0.2 * np.log(np.arange(1, steps + 1)), 0.15))
    return [(float(loss), float(norm)) for loss, norm in zip(losses, norms, strict=True)]


def test_an_undisturbed_run_has_no_spike() -> None:
    for seed in range(10):
        spikes = Spikes(100, 6.0)
        assert not [found for loss, norm in curve(3000, seed) for found in spikes.add(loss, norm)]


@pytest.mark.parametrize(("loss", "norm", "signals"), [(1.0, 1.0, [LOSS]), (0.0, 8.0, [GRAD_NORM]), (0.0, 0.1, [])])
def test_a_jump_is_a_spike_with_its_numbers(loss: float, norm: float, signals: list[str]) -> None:
    spikes, values = Spikes(100, 6.0), curve(500)
    for value in values[:-1]:
        spikes.add(*value)
    limits = spikes.limits()
    found = spikes.add(values[-1][0] + loss, values[-1][1] * norm)
    assert [spike.signal for spike in found] == signals
    for spike in found:
        limit = limits.loss if spike.signal == LOSS else limits.grad_norm
        assert spike.value > spike.limit == limit > spike.median and spike.deviations > 6


def test_the_measure_is_that_of_numpy() -> None:
    spikes, values = Spikes(100, 6.0), curve(400, seed=3)
    for value in values:
        spikes.add(*value)
    losses = np.array([loss for loss, _ in values[-100:]])
    logs = np.log([norm for _, norm in values[-100:]])
    mad = [1.4826 * np.median(np.abs(x - np.median(x))) for x in (losses, logs)]
    limits = spikes.limits()
    assert limits.loss == pytest.approx(np.median(losses) + 6 * max(mad[0], 0.01 * np.median(losses)))
    assert math.log(limits.grad_norm) == pytest.approx(np.median(logs) + 6 * max(mad[1], 0.1))


def test_a_lasting_change_of_level_becomes_normal() -> None:
    spikes = Spikes(20, 6.0)
    for _ in range(20):
        spikes.add(3.0, 1.0)
    found = [bool(spikes.add(5.0, 1.0)) for _ in range(20)]
    assert found[0] and not found[-1] and sum(found) <= 11


FINITE = st.floats(0.01, 100.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.one_of(FINITE, st.just(math.nan), st.just(math.inf)), FINITE), max_size=60), st.data())
def test_a_window_goes_on_after_a_restart(values: list[tuple[float, float]], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(values)))
    whole, first, second = Spikes(10, 3.0), Spikes(10, 3.0), Spikes(10, 3.0)
    found = [whole.add(*value) for value in values]
    before = [first.add(*value) for value in values[:at]]
    second.load(json.loads(json.dumps(first.state())))
    assert before + [second.add(*value) for value in values[at:]] == found


def rule(**settings: Any) -> tuple[Health, list[str], list[dict[str, Any]]]:
    asked: list[str] = []
    events: list[dict[str, Any]] = []
    guard = GuardConfig.model_validate({**({} if settings.get("spike") == "off" else {"window": 10}), **settings})
    return (
        Health(guard, ask=asked.append, event=lambda name, **row: events.append({"event": name, **row})),
        asked,
        events,
    )


@pytest.mark.parametrize(
    ("spike", "asked"), [("continue", []), ("skip", []), ("rollback", [ROLL_BACK] * 2), ("stop", [HALT] * 2)]
)
def test_rules_ask_after_so_many_spikes_in_a_row(spike: str, asked: list[str]) -> None:
    health, found, events = rule(spike=spike, **({"patience": 2} if asked else {}))
    steps = [3.0] * 10 + [9.0, 3.0, 9.0, 9.0, 9.0]
    for step, loss in enumerate(steps, 1):
        assert (health.limits() is None) == (spike != "skip")
        health.after(step, loss, 1.0)
    assert found == asked, "one spike alone is no stretch"
    assert [(row["event"], row["step"], row["in_a_row"], row["action"]) for row in events] == [
        ("spike", step, in_a_row, spike) for step, in_a_row in ((11, 1), (13, 1), (14, 2), (15, 3))
    ]
    assert {key: events[0][key] for key in ("signal", "value", "median", "limit", "deviations")} == {
        "signal": "loss", "value": 9.0, "median": 3.0, "limit": 3.18, "deviations": 200.0,
    }  # fmt: skip


def test_what_was_asked_before_a_restart_is_asked_after_it() -> None:
    before, _, _ = rule(spike="stop", patience=1)
    for step, loss in enumerate([3.0] * 10 + [9.0], 1):
        before.after(step, loss, 1.0)
    after, asked, _ = rule(spike="stop", patience=1)
    after.load(json.loads(json.dumps(before.state())))
    assert asked == [HALT]


def test_a_rule_that_is_off_does_nothing() -> None:
    health, found, events = rule(spike="off")
    for step in range(30):
        health.after(step, 3.0 + 100 * (step == 29), 1.0)
    assert (found, events, health.state(), health.limits()) == ([], [], {}, None)
