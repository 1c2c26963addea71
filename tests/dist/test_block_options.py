"""Options of the block compute on tensor and sequence ranks what they compute in one process."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import reference, spread, tiny
from tests.dist.test_parity import LOSS, NORM, assert_same_curves
from trainer.config.run import RunConfig

MODELS: dict[str, dict[str, Any]] = {
    "alibi capped": {"model": {"position": "alibi", "logit_softcap": 2.0}, "optim": {"z_loss": 0.01}},
    "sandwich window": {
        "model": {"norm_placement": "both", "mixer": {"attention": {"window": 5}}, "residual_scale": 0.5},
        "optim": {"z_loss": 0.01, "label_smoothing": 0.1},
    },
    "post sinusoidal": {"model": {"norm_placement": "post", "position": "sinusoidal", "init": "xavier"}},
    "hybrid": {"model": {"pattern": ["gated_conv", {"attention": {"window": 3}}], "position": "alibi"}},
}


def run_of(name: str, **parallel: Any) -> RunConfig:
    return tiny(**MODELS[name], parallel=parallel)


@functools.cache
def plain(name: str, masked: bool) -> list[tuple[float, float]]:
    return reference(run_of(name), masked=masked)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("world", "parallel"), [(2, {"tensor": 2, "zero_stage": 1}), (2, {"zero_stage": 3})], ids=str)
def test_ranks_equal_one_process(ranks: RankPool, name: str, world: int, parallel: dict[str, Any]) -> None:
    masked = "tensor" in parallel
    config = run_of(name, **parallel)
    assert_same_curves(ranks.run(world, spread, config, 1, masked), plain(name, masked), LOSS, NORM)


@pytest.mark.parametrize(("world", "tensor"), [(2, 1), (4, 2)])
@pytest.mark.parametrize("name", ["alibi capped", "sandwich window"])
def test_sequence_ranks_share_slopes_and_windows(ranks: RankPool, name: str, world: int, tensor: int) -> None:
    config = run_of(name, sequence=2, tensor=tensor, zero_stage=1)
    assert_same_curves(ranks.run(world, spread, config), plain(name, False), LOSS, NORM)


@pytest.mark.parametrize("name", ["alibi capped", "hybrid"])
def test_compiled_blocks_compute_the_same(ranks: RankPool, name: str) -> None:
    config = run_of(name, compile=True, zero_stage=0)
    for curve in ranks.run(1, spread, config):
        for got, want in zip(curve, plain(name, False), strict=True):
            assert got[0] == pytest.approx(want[0], abs=2e-4), json.dumps([got, want])
