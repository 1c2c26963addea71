"""A run follows its expected curve: a value in each row, one event when it leaves, nothing where there is no curve."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from trainer.config.load import run_from_values
from trainer.contract.expected import ExpectedCurve, ExpectedGrowth, Limits
from trainer.contract.run_dir import RunDir, append_json
from trainer.data.order.skipping import steps_before
from trainer.observe.live_law import LiveLaw, open_live_law
from trainer.observe.wandb_alerts import alert_of
from trainer.plan.likeness import likeness, unlike_expected, unlikeness

LIKE = {"batch": {"tokens_per_step": 64}, "schedule": {"kind": "cosine"}, "model": {}, "optim": {"lr": 0.01}}


def curve(**changes: Any) -> ExpectedCurve:
    """Expect a loss of e all along, with one way to deviate of 1 % and batches of 2 %."""
    values: dict[str, Any] = {
        "steps": [0, 50, 100], "mean": [1.0, 1.0, 1.0], "modes": [[0.01, 0.01, 0.01]], "noise": [0.02, 0.02, 0.02],
        "noise_of_known": [0.02, 0.02, 0.02], "batches": {}, "final_mean": 1.0, "final_modes": [0.01],
        "limits": Limits(4.5, 12.0), "total_steps": 100, "tokens_per_step": 64, "made_for": LIKE, "cells": ["a"],
    }  # fmt: skip
    return ExpectedCurve(**{**values, **changes})


def told() -> tuple[list[dict[str, Any]], Any]:
    events: list[dict[str, Any]] = []
    return events, lambda event, **details: events.append({"event": event, **details})


def test_each_step_says_how_far_off_it_is_and_leaving_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    events, event = told()
    live = LiveLaw(curve(), event)
    assert live.values(1, math.exp(1.0 + 0.0224))["off"] == pytest.approx(1.0, abs=0.01)
    for step in range(2, 31):
        live.values(step, math.exp(1.0))
    assert events == []
    for step in range(31, 60):
        live.values(step, math.exp(1.08))
    (left,) = events
    assert left["event"] == "left_band" and 31 <= left["step"] <= 36 and left["test"] == "drift"
    assert left["expected"] == pytest.approx(math.e) and left["loss"] == pytest.approx(math.exp(1.08))
    assert left["drift"] > left["limit"] == 12.0
    assert "data" in left["reasons"][0]
    said = capsys.readouterr().err
    assert said.count("has left its expected band, above it") == 1


def test_a_run_that_is_wrong_from_the_beginning_blames_its_settings() -> None:
    events, event = told()
    live = LiveLaw(curve(), event, different="optim.lr: 0.01 there, 0.03 here")
    for step in range(1, 40):
        live.values(step, math.exp(0.94))
    assert events[0]["level"] < 0 and events[0]["step"] < 20
    assert events[0]["reasons"][0].endswith("optim.lr: 0.01 there, 0.03 here")


def test_a_loss_that_is_no_number_changes_nothing() -> None:
    live, other = (LiveLaw(curve(), told()[1]) for _ in range(2))
    assert live.values(1, math.nan) == {"off": None}
    assert live.values(2, 2.8) == other.values(2, 2.8)


def test_a_run_that_goes_back_is_not_compared_with_batches_that_it_does_not_read_again() -> None:
    live = LiveLaw(curve(batches={3: 0.5, 4: 0.5}), told()[1])
    assert live.values(4, math.exp(1.5))["off"] == pytest.approx(0)
    live.go_back([], steps_before(((3, 5),)))
    assert live.values(3, math.exp(1.5))["off"] == pytest.approx(0) and live.values(4, math.e)["off"] == pytest.approx(
        0
    )


def test_a_norm_that_leaves_is_told_once_over_restarts_and_blames_weight_decay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    growth = ExpectedGrowth(mean=[0.0, 0.05, 0.1], sd=[0.01] * 3, since=5, limit=4.0)
    events, event = told()
    live, rows = LiveLaw(curve(growth=growth), event), []
    for step in range(1, 60):
        norms = {"matrix": 20 * math.exp(-0.002 * step), "embedding": 1.0} if step % 5 == 0 else None
        rows.append({"step": step, "loss": math.e, "param_norms": norms, **live.values(step, math.e, norms)})
    (left,) = events
    assert (left["test"], left["limit"], left["step"]) == ("norm", 4.0, 20), "its growth counts from step 5"
    assert left["norm_off"] == pytest.approx(-0.003 * 15 / 0.01, rel=1e-6) and left["reasons"][0] == "weight decay"
    assert (
        "the norm of its matrices has left its expected band, below it (norm -4.5, limit 4.0)"
        in capsys.readouterr().err
    )
    said = alert_of(left)
    assert said is not None and "norm of its matrices -4.5 standard deviations off. Likely: weight decay" in said.text
    assert [row["step"] for row in rows if "norm_off" in row] == [*range(5, 60, 5)]
    again = LiveLaw(curve(growth=growth), event)
    again.follow(rows[:40])
    values = again.values(45, math.e, rows[44]["param_norms"])
    assert values["norm_off"] == rows[44]["norm_off"] and len(events) == 1
    again.go_back(rows[:10], until=math.inf)
    assert again.values(20, math.e, rows[19]["param_norms"])["norm_off"] == rows[19]["norm_off"] and len(events) == 2


def test_a_run_that_goes_on_stands_where_it_stood(tmp_path: Path) -> None:
    events, event = told()
    run_dir = RunDir(tmp_path)
    assert open_live_law(run_dir, LIKE, 100, event, lambda curve: "") is None
    curve().save(run_dir.expected)
    whole = open_live_law(run_dir, LIKE, 100, event, lambda curve: "")
    assert whole is not None
    losses = {step: math.exp(1.08 if step > 20 else 1.0) for step in range(1, 60)}
    rows = [{"kind": "train", "step": step, "loss": loss, **whole.values(step, loss)} for step, loss in losses.items()]
    assert len(events) == 1
    append_json(run_dir.metrics, *rows[:40])
    again = open_live_law(run_dir, LIKE, 100, event, lambda curve: "")
    assert again is not None
    assert [again.values(row["step"], row["loss"])["off"] for row in rows[40:]] == [row["off"] for row in rows[40:]]
    assert len(events) == 1, "what an earlier attempt told is not told again"


@pytest.mark.parametrize("change", [{"total_steps": 200}, {"made_for": {**LIKE, "schedule": {"kind": "wsd"}}}])
def test_a_curve_of_another_run_is_said_and_not_used(
    tmp_path: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(tmp_path)
    curve(**change).save(run_dir.expected)
    assert open_live_law(run_dir, LIKE, 100, told()[1], lambda curve: "") is None
    assert "is of another kind of run" in capsys.readouterr().err
    run_dir.expected.write_text("{")
    assert open_live_law(run_dir, LIKE, 100, told()[1], lambda curve: "") is None
    assert "training goes on without it" in capsys.readouterr().err


def test_settings_and_data_that_the_finished_runs_did_not_have_are_told_before_any_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values: dict[str, Any] = {"model": {"size": "12k"}, "data": {}, "batch": {"tokens_per_step": 64}, "steps": 100}
    usual, none = (run_from_values({**values, "optim": {"weight_decay": wd}}, "here") for wd in (0.1, 0.0))
    made, run_dir = curve(made_for=likeness(usual), data_hash="abc"), RunDir(tmp_path)
    assert unlike_expected(made, usual, "abc") == ""
    apart = "optim.weight_decay: 0.1 there, 0.0 here"
    assert unlike_expected(made, none, "abc") == apart
    assert unlike_expected(made, usual, "abd") == "prepared data: hash abc there, abd here"
    assert unlike_expected(curve(made_for=likeness(usual), other_rate="optim.lr: a"), usual, "") == "optim.lr: a"
    made.save(run_dir.expected)
    live = open_live_law(
        run_dir, likeness(none), 100, told()[1], lambda expected: unlike_expected(expected, none, "abc")
    )
    assert live is not None and live.different == apart
    assert f"did not have: {apart}" in capsys.readouterr().err
    said = alert_of({"event": "started", "unlike_expected": apart})
    assert said is not None and said.text.endswith(apart) and alert_of({"event": "started"}) is None


def test_size_length_and_seed_are_no_unlikeness_and_all_else_is() -> None:
    def like(**changes: Any) -> dict[str, Any]:
        values: dict[str, Any] = {
            "model": {"d_model": 32, "n_layers": 1, "n_heads": 2, "context_length": 64, "vocab_size": 300},
            "data": {}, "batch": {"tokens_per_step": 128}, "steps": 10,
        }  # fmt: skip
        return likeness(run_from_values({**values, **changes}, "here"))

    model = {"d_model": 64, "n_layers": 3, "n_heads": 4, "context_length": 64, "vocab_size": 300}
    assert unlikeness(like(), like(seed=3, steps=50, model=model, data={"seed": 5})) == ""
    assert unlikeness(like(), like(model={**model, "vocab_size": None})) == "", "a vocabulary that is not known yet"
    assert "weight_decay" in unlikeness(like(), like(optim={"weight_decay": 0.5}))
    assert "schedule" in unlikeness(like(), like(schedule={"kind": "wsd"}))
    assert "dropout" in unlikeness(like(), like(model={**model, "dropout": 0.5}))
    assert "context_length" in unlikeness(like(), like(model={**model, "context_length": 32}))
