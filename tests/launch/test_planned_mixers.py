"""The planner asks a model's mixers for their speed, memory and splits, and never builds one."""

from __future__ import annotations

from typing import Any

import pytest

from launch.planner.expected import seconds_on_cpu, serial_seconds
from launch.planner.layouts import layouts
from launch.planner.shape import shape_of
from tests.unit.toy_family import TOY, toy
from tests.unit.toy_mixer import register
from trainer.config.load import run_from_values
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.models.registry import FAMILIES
from trainer.plan.counting import count_flops, count_parameters
from trainer.plan.plan import make_plan

register()
RATE = 1e10  # FLOP/s of a core


def run(**model: Any) -> RunConfig:
    shape = {"d_model": 256, "n_layers": 4, "vocab_size": 1024, "context_length": 512}
    values = {"model": {**shape, **model}, "data": {}, "batch": {"tokens_per_step": 2**15}, "steps": 10}
    return run_from_values(values, "test")


def test_a_mixer_is_planned_on_gpus_with_the_splits_that_it_has() -> None:
    found = layouts(run(mixer="gated_conv", d_ff=768), world=8, gpu="A100-SXM-80GB")
    assert {estimate.layout.sequence for estimate in found.ranked} == {1}
    assert {estimate.layout.tensor for estimate in found.ranked} == {1, 2, 4, 8}
    assert any("gated_conv" in refused.reason and "sequence" in refused.reason for refused in found.refused)


def test_every_linear_layer_of_a_pattern_is_counted_once() -> None:
    """The planner's products are the matrices of the body, which have 6 FLOPs a parameter."""
    model = run(pattern=["gated_conv", "attention"], n_heads=4, bias=False).model
    shape = shape_of(model)
    products = sum(
        layers * sum(p.outputs * p.inputs for p in (*mixer.products, *shape.mlp)) for mixer, layers in shape.mixers
    )
    assert 6 * products == count_flops(model).body
    assert products == count_parameters(model).body - count_parameters(model).body_parts["norms"]


def test_a_recurrence_that_runs_token_by_token_takes_its_time_on_a_cpu() -> None:
    """Two kernels a token and layer, forward and twice backward, for each micro-batch whatever its size."""
    serial, parallel = run(mixer="ema"), run(mixer="gated_conv")
    assert serial_seconds(parallel) == 0
    assert serial_seconds(serial) == pytest.approx(3 * 4 * 2 * 512 * 6e-6)
    plan = make_plan(serial, world=1)
    with_it = seconds_on_cpu(serial, plan, RATE, ranks=1)
    without = seconds_on_cpu(parallel, make_plan(parallel, world=1), RATE, ranks=1)
    assert with_it - 10 * plan.accumulation * serial_seconds(serial) < without, "its matrices are smaller"


def test_a_window_makes_attention_cheaper_on_gpus() -> None:
    times = []
    for window in (None, 64):
        config = run(n_heads=4, mixer={"attention": {"window": window}} if window else "attention")
        times.append(layouts(config, world=1, gpu="A100-SXM-80GB").best.time.attention)
    assert times[1] < 0.3 * times[0]


def test_a_family_without_a_model_of_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    with pytest.raises(UserError, match="no model of a step's time for the family 'toy'"):
        shape_of(toy().model)
    assert serial_seconds(run(n_heads=4)) == 0
