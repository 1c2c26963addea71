"""Coordinate checks and critical batches: slopes and laws that are known come back, and bad input is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from launch.commands.coordcheck import coordcheck
from launch.commands.critical_batch import critical_batch
from launch.scaling.other.coordinates import Measured, slopes
from launch.scaling.other.critical_batch import Curve, fit_critical_batch
from trainer.contract.errors import UserError


def measured(power: float, noise: float, seed: int = 0) -> list[Measured]:
    random = np.random.default_rng(seed)
    return [
        {"d_model": width, "seed": seed, "activations": {
            "logits": {"first": 1.0, "last": 1.0, "change": width**power * np.exp(noise * random.standard_normal())},
            "still": {"first": 1.0, "last": 1.0, "change": 0.0},
        }}
        for width in (32, 64, 128, 256, 512) for seed in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("power", "noise", "verdict"),
    [(0.0, 0.03, "flat"), (0.5, 0.03, "grows"), (-0.5, 0.03, "shrinks"), (0.3, 0.3, "cannot tell")],
)
def test_the_verdict_is_that_of_the_interval(power: float, noise: float, verdict: str) -> None:
    (found,) = slopes(measured(power, noise))
    assert found.kind == "logits" and found.verdict == verdict
    assert found.slope == pytest.approx(power, abs=5 * (found.high - found.low))


def test_the_interval_of_a_slope_covers_it_as_often_as_it_says() -> None:
    found = [slopes(measured(0.3, 0.1, seed))[0] for seed in range(300)]
    assert 0.85 <= np.mean([one.low <= 0.3 <= one.high for one in found]) <= 0.95


def curve(batch: float, critical: float, noise: float = 0.0, seed: str = "0") -> Curve:
    """A loss 3 + (S / S_min' )^-1/2, whose steps to any loss grow by 1 + critical / batch."""
    steps = np.arange(10, 20_000, 10, dtype=float)
    scale = (1 + critical / batch) * np.exp(noise)
    return Curve(f"b{batch:g}", seed, batch, steps, 3 + (steps / scale) ** -0.5)


@pytest.mark.parametrize("critical", [500.0, 4000.0, 30_000.0])
def test_a_critical_batch_comes_back(critical: float) -> None:
    found = fit_critical_batch([curve(batch, critical) for batch in (1000.0, 4000.0, 16_000.0)], loss=3.05)
    assert found.critical == pytest.approx(critical, rel=1e-2)
    assert found.fewest_steps == pytest.approx(400, rel=1e-2)
    tokens, steps = np.array(found.batches) * found.steps, np.array(found.steps)
    assert (steps / found.fewest_steps - 1) * (tokens / found.fewest_tokens - 1) == pytest.approx(1, rel=0.05)


def test_its_interval_covers_the_truth_as_often_as_it_says() -> None:
    random, held = np.random.default_rng(1), 0
    for _ in range(200):
        curves = [
            curve(batch, 4000.0, 0.05 * random.standard_normal(), seed)
            for batch in (1000.0, 4000.0, 16_000.0) for seed in "ab"
        ]  # fmt: skip
        low, high = fit_critical_batch(curves, loss=3.05).interval
        held += low <= 4000 <= high
    assert 0.84 <= held / 200 <= 0.96


def test_the_fastest_trial_of_a_seed_counts() -> None:
    curves = [curve(batch, 4000.0, noise) for batch in (1000.0, 4000.0, 16_000.0) for noise in (0.0, 0.7)]
    assert fit_critical_batch(curves, loss=3.05).critical == pytest.approx(4000, rel=1e-2)


def test_batches_that_do_not_bound_it_say_so() -> None:
    noisy = [curve(batch, 10.0, noise) for batch, noise in ((1000.0, 0.05), (4000.0, -0.05), (16_000.0, 0.02))]
    assert fit_critical_batch(noisy, loss=3.05).interval[0] == 0.0


@pytest.mark.parametrize(
    ("curves", "loss", "said"),
    [
        ([curve(1000.0, 1.0), curve(2000.0, 1.0)], 3.05, "2 batch sizes are too few"),
        ([curve(batch, 1.0) for batch in (1e3, 2e3, 4e3)], 2.0, "comes down to loss 2"),
    ],
)
def test_what_has_no_critical_batch_is_named(curves: list[Curve], loss: float, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fit_critical_batch(curves, loss)


def test_the_command_reads_run_directories_and_tables(tmp_path: Path) -> None:
    rows, lines = [], ["name,batch,step,loss"]
    for batch in (1000.0, 4000.0, 16_000.0):
        found = curve(batch, 4000.0)
        run_dir = tmp_path / found.name
        run_dir.mkdir()
        points = [(int(s), float(x)) for s, x in zip(found.steps, found.losses, strict=True)]
        metrics = [{"kind": "evaluation", "step": step, "loss": loss} for step, loss in points]
        (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
        lines += [f"{found.name},{batch:g},{step},{loss!r}" for step, loss in points]
        rows.append({"cell": found.name, "name": found.name, "eval_set": "held_out", "run_dir": str(run_dir),
                     "tokens_per_step": batch, "seed": 0, "status": "done"})  # fmt: skip
    (tmp_path / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "curves.csv").write_text("\n".join(lines) + "\n")
    for file in ("ledger.jsonl", "curves.csv"):
        done = CliRunner().invoke(critical_batch, [str(tmp_path / file), "--loss", "3.05", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["critical"] == pytest.approx(4000, rel=1e-2)


def test_the_check_is_of_the_rules_of_adamw() -> None:
    done = CliRunner().invoke(coordcheck, ["configs/run/transfer.yaml", "--set", "optim.name=muon"])
    assert isinstance(done.exception, UserError) and "optim.name is muon" in str(done.exception)
