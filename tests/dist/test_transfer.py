"""mup and completep train the same at every layout: away from the base, where no factor is 1."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import reference, spread, tiny
from tests.dist.test_parity import LOSS, NORM, assert_same_curves
from trainer.config.run import RunConfig

BASES: dict[str, dict[str, Any]] = {
    "mup": {"d_model": 16, "head_dim": 4},
    "completep": {"d_model": 16, "n_layers": 1},
}  # fmt: skip
MIXERS: dict[str, dict[str, Any]] = {"attention": {}, "mamba2": {"mixer": "mamba2"}}


def transferred(rule: str, mixer: str, **parallel: Any) -> RunConfig:
    return tiny(model=MIXERS[mixer], optim={"parametrization": rule, "base": BASES[rule]}, parallel=parallel)


@functools.cache
def plain(rule: str, mixer: str) -> list[tuple[float, float]]:
    return reference(transferred(rule, mixer))


@pytest.mark.parametrize(
    ("world", "rule", "mixer", "parallel"),
    [
        (2, "mup", "attention", {"zero_stage": 1}),
        (4, "completep", "attention", {"tensor": 2, "zero_stage": 2}),
        (2, "completep", "attention", {"zero_stage": 3}),
        (4, "mup", "attention", {"sequence": 2, "tensor": 2, "zero_stage": 1}),
        (2, "completep", "mamba2", {"tensor": 2, "zero_stage": 0}),
        (2, "mup", "mamba2", {"zero_stage": 2}),
        (2, "mup", "attention", {"engine": "fsdp", "zero_stage": 3}),
    ],
)
def test_layouts_equal_one_process(
    ranks: RankPool, world: int, rule: str, mixer: str, parallel: dict[str, Any]
) -> None:
    curves = ranks.run(world, spread, transferred(rule, mixer, **parallel), 2, False, world == 2)
    assert_same_curves(curves, plain(rule, mixer), LOSS, NORM)
