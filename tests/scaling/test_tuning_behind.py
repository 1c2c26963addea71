"""What tuning stands behind the rows of a law: said in its certificate, with what mistuning does to the exponent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from launch.scaling.compare.sides import read_ledger
from launch.scaling.laws.registry import find_law
from launch.scaling.table.load import from_ledger
from launch.scaling.trust.study import study
from tests.scaling.runs import ledger_row
from trainer.contract.errors import UserError
from trainer.contract.plain_json import to_json

SHAPES = [(32, 2), (48, 3), (80, 4), (128, 4), (176, 6), (256, 9)]
ALPHA, RISE, RATE = 0.2, 0.01, 1e-3  # the law at the best rates, log loss per octave squared, the rate of all rows


def best_rate(body: float) -> float:
    """Fall with the size, so that one rate is ever further from the best."""
    return RATE * (body / (12 * 2 * 32**2)) ** -0.5


def loss(row: dict[str, Any], rate: float) -> float:
    off = math.log2(rate / best_rate(row["params_body"]))
    return 40 * float(row["params_body"] + 2048 * row["d_model"]) ** -ALPHA * math.exp(RISE * off**2)


def run(k: int, rate: float, **columns: Any) -> dict[str, Any]:
    d_model, n_layers = SHAPES[k]
    row = ledger_row(f"c{k}-{rate:.5g}-{columns.get('purpose')}", d_model, n_layers, 3_000_000, 1.0, lr=rate)
    return {**row, "loss": loss(row, rate), **columns}


def ladder(lr_by: str = "rule", *, at_best: bool = False) -> list[dict[str, Any]]:
    rows = [run(k, RATE, lr_by=lr_by) for k in range(len(SHAPES))]
    return [run(k, best_rate(row["params_body"]), lr_by=lr_by) if at_best else row for k, row in enumerate(rows)]


def trials(sizes: tuple[int, ...] = (0, 1, 3)) -> list[dict[str, Any]]:
    rows = []
    for k in sizes:
        best = best_rate(run(k, RATE)["params_body"])
        for octaves in (-1.5, 0.0, 1.5):
            factor = best * 2**octaves / RATE
            settings = {"model.size": str(k), "optim.lr_factor": factor}
            rows.append(run(k, factor * RATE, purpose="tuning", settings=settings))
    return rows


def studied(rows: list[dict[str, Any]]) -> Any:
    return study(from_ledger(rows), find_law("power-N"))


def test_a_law_of_rows_by_the_rule_is_weak_and_says_why() -> None:
    certificate = studied(ladder()).certificate
    assert certificate.status == "weak"
    assert any("learning rate untuned at these sizes (by the rule: 6 of 6 runs" in why for why in certificate.reasons)


def test_rows_of_old_say_nothing_of_their_rate() -> None:
    rows = [{key: value for key, value in row.items() if key != "lr_by"} for row in ladder(at_best=True)]
    assert not any("learning rate" in why for why in studied(rows).certificate.reasons)


def test_the_cost_of_mistuning_is_measured_and_its_exponent_is_in_the_interval() -> None:
    found = studied([*trials(), *ladder()])
    wrong, right = found.fitted.values["alpha"], found.if_tuned["alpha"]
    assert right == pytest.approx(ALPHA, abs=0.005) and abs(wrong - ALPHA) > 0.02
    low, high = found.intervals()["alpha"]
    assert low <= ALPHA + 0.005 and high >= ALPHA - 0.005
    reasons = " ".join(found.certificate.reasons)
    assert "learning rate mistuned: losses would fall by" in reasons and "would move alpha from" in reasons
    assert found.certificate.status == "weak"


def with_batch(row: dict[str, Any], batch: int, decay: float, **columns: Any) -> dict[str, Any]:
    """Return a row whose best batch is 8192 and best weight decay .1, at the learning rate of its batch by the rule."""
    rise = 0.004 * math.log2(batch / 8192) ** 2 + 0.003 * math.log2(decay / 0.1) ** 2
    changes = {"tokens_per_step": batch, "weight_decay": decay, "loss": row["loss"] * math.exp(rise)}
    return {**row, "lr": row["lr"] * (batch / row["tokens_per_step"]) ** 0.5, **changes, **columns}


def trials_of_all(sizes: tuple[int, ...] = (0, 1, 3)) -> list[dict[str, Any]]:
    """Return what a tuning of the three knobs leaves in the ledger: each with those before it at their best."""
    rows = []
    for k in sizes:
        best, settings = run(k, best_rate(run(k, RATE)["params_body"])), {"model.size": str(k)}
        marks: dict[str, Any] = {"purpose": "tuning", "settings": settings}
        for row in [row for row in trials((k,)) if row["settings"]["model.size"] == str(k)]:
            rows.append({**row, "knob": "lr", "weight_decay": 0.1})
        for batch in (2048, 8192, 32768):
            name = f"b{k}-{batch}"
            rows.append(with_batch(best, batch, 0.1, knob="batch", cell=name, name=name, **marks))
        for decay in (0.025, 0.1, 0.4):
            name = f"w{k}-{decay}"
            rows.append(with_batch(best, 8192, decay, knob="weight_decay", cell=name, name=name, **marks))
    return rows


BY = {"batch_by": "by hand", "weight_decay_by": "by hand"}


def test_what_batch_and_weight_decay_cost_is_measured_and_in_the_interval() -> None:
    """Small models have the right batch and large ones are ever further from it: the exponent bends."""
    rows = [with_batch(row, 8192 // 2**k, 0.1 * 1.3**k, **BY) for k, row in enumerate(ladder("recipe", at_best=True))]
    found = studied([*trials_of_all(), *rows])
    reasons, notes = " ".join(found.certificate.reasons), " ".join(found.table.notes)
    assert "batch mistuned: losses would fall by" in reasons and "weight decay mistuned: losses" in reasons
    assert "learning rate tuned: losses would fall by 0.0" in notes, "its batch was taken into account"
    wrong, right = found.fitted.values["alpha"], found.if_tuned["alpha"]
    assert right == pytest.approx(ALPHA, abs=0.006) and abs(wrong - ALPHA) > 0.015
    low, high = found.intervals()["alpha"]
    assert low <= ALPHA + 0.006 and high >= ALPHA - 0.006 and "would move alpha from" in reasons


def test_what_nobody_tuned_is_said_in_one_line() -> None:
    rows = [{**row, **BY, "weight_decay": 0.1} for row in ladder()]
    notes = studied(rows).table.notes
    assert notes.count("batch and weight decay set by hand: what mistuning costs is not in this ledger") == 1
    followed = [{**row, "lr_by": "recipe", "batch_by": "recipe", "weight_decay_by": "by hand"} for row in ladder()]
    found = studied(followed)
    assert "learning rate and batch by a recipe, tuned elsewhere: what mistuning costs" in " ".join(found.table.notes)
    assert not any("learning rate" in why for why in found.certificate.reasons)


def test_tuned_rows_are_not_weak_for_their_rate() -> None:
    found = studied([*trials(), *ladder("recipe", at_best=True)])
    assert not any("learning rate" in why for why in found.certificate.reasons)
    assert any(note.startswith("learning rate tuned") for note in found.table.notes)


def test_sizes_far_from_every_tuned_one_are_untuned() -> None:
    found = studied([*trials((0, 1)), *ladder()])
    reasons = " ".join(found.certificate.reasons)
    assert "learning rate untuned at these sizes (by the rule: 2 of 6 runs" in reasons
    assert not found.if_tuned, "what is known of the small sizes alone would bend the exponent"


def test_laws_and_comparisons_leave_the_runs_of_a_tuning_out(tmp_path: Any) -> None:
    table = from_ledger([*trials(), *ladder()])
    assert len(table) == len(SHAPES) and any("9 runs of a tuning" in w for w in table.warnings)
    assert len(from_ledger([*trials(), *ladder()], trials=True)) == len(SHAPES) + 9, "a law of the rate wants them"
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(to_json(row) + "\n" for row in [*trials(), *ladder()]))
    assert len(read_ledger(path).rows) == len(SHAPES)
    path.write_text("".join(to_json(row) + "\n" for row in trials()))
    with pytest.raises(UserError, match="runs of a tuning alone"):
        read_ledger(path)
    with pytest.raises(UserError, match="runs of a tuning alone"):
        from_ledger(trials())


def test_rates_that_were_swept_by_hand_count_as_tuned() -> None:
    rows = [run(k, RATE * 2.0**j, lr_by="by hand") for k in range(len(SHAPES)) for j in range(-4, 3)]
    table = from_ledger(rows)
    assert set(np.unique(table.labels["tuning_lr"])) == {"tuned"}
    assert not any("untuned" in why for why in studied(rows).certificate.reasons)
