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
    assert set(np.unique(table.labels["tuning"])) == {"tuned"}
    assert not any("untuned" in why for why in studied(rows).certificate.reasons)
