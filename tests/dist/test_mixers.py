"""Every registered mixer computes on ranks what one process computes: data parallel, each ZeRO stage, tensor ranks."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import reference, spread, tiny
from tests.dist.test_parity import LOSS, NORM, assert_same_curves
from tests.unit.toy_mixer import register
from trainer.config.run import RunConfig
from trainer.models.mixers.registry import MIXERS

register()


def run_of(name: str, **parallel: Any) -> RunConfig:
    """Return a run of the tiny model with a mixer in place of attention."""
    heads = {"n_heads": 4 if "n_heads" in MIXERS[name].cost_class.settings else None}
    return tiny(model={"mixer": name, "bias": True, **heads}, parallel=parallel)


def can_split(name: str) -> bool:
    (choice,) = set(run_of(name).model.mixers)  # type: ignore[attr-defined]
    return MIXERS[name].cost_class(name, run_of(name).model, choice.options).shared_widths() is not None


@functools.cache
def plain(name: str, masked: bool) -> list[tuple[float, float]]:
    return reference(run_of(name), masked=masked)


def train(config: RunConfig, *arguments: Any) -> list[Any]:
    """Train on this world as `spread` does, with the toy mixer known."""
    register()
    return spread(config, *arguments)


OTHERS = [name for name in MIXERS if name != "attention"]


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize("name", OTHERS)
def test_two_data_ranks_equal_one(ranks: RankPool, name: str, zero_stage: int) -> None:
    masked = MIXERS[name].cost_class.respects_documents and zero_stage == 2
    curves = ranks.run(2, train, run_of(name, zero_stage=zero_stage), 2, masked, zero_stage == 1)
    assert_same_curves(curves, plain(name, masked), LOSS, NORM)


@pytest.mark.parametrize(("zero_stage", "recompute", "meta"), [(0, "none", False), (1, "selective", True)])
@pytest.mark.parametrize("name", [name for name in OTHERS if can_split(name)])
def test_two_tensor_ranks_equal_one(ranks: RankPool, name: str, zero_stage: int, recompute: str, meta: bool) -> None:
    config = run_of(name, tensor=2, zero_stage=zero_stage, recompute=recompute)
    assert_same_curves(ranks.run(2, train, config, 1, False, meta), plain(name, False), LOSS, NORM)
