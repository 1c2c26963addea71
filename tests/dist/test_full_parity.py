"""The full cross of layouts, ZeRO stages, models and accumulation, of which `test_parity.py` runs a sample.

python -m pytest -m full_parity tests/dist

Adam's eps is 1e-6 here. In its first steps Adam divides a gradient by its own size plus eps, so that with 1e-8 an entry
that is all but zero turns rounding into a share of the learning rate: one of these eight models has such an entry, and
plain float32 then differs from float64 by 1e-5, five times what is asserted here.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import reference, spread, tiny
from tests.dist.test_parity import LOSS, NORM, assert_same_curves, differences

STEPS = 20
# (tensor, data, sequence); one replica runs every ZeRO stage as stage 0, so it is taken once
LAYOUTS = [(1, 1, 1), (1, 2, 1), (1, 4, 1), (2, 1, 1), (2, 2, 1), (4, 1, 1), (1, 1, 2), (1, 2, 2), (1, 1, 4), (2, 1, 2)]
OPTIM = {"eps": 1e-6}
CELLS = [
    (layout, zero_stage, tied, fused, grouped, accumulation)
    for layout, zero_stage in itertools.product(LAYOUTS, range(4))
    if zero_stage == 0 or layout[1] * layout[2] > 1
    for tied, fused, grouped, accumulation in itertools.product((True, False), (True, False), (False, True), (1, 2))
]


def model(tied: bool, fused: bool, grouped: bool) -> dict[str, Any]:
    return {"tied_embeddings": tied, "fused_qkv": fused, "n_heads": 8, "n_kv_heads": 4 if grouped else 8}


@functools.cache
def plain(tied: bool, fused: bool, grouped: bool) -> list[tuple[float, float]]:
    return reference(tiny(model=model(tied, fused, grouped), optim=OPTIM), STEPS)


def name(cell: tuple[Any, ...]) -> str:
    (tensor, data, sequence), zero_stage, tied, fused, grouped, accumulation = cell
    words = ["tied" if tied else "untied", "fused" if fused else "separate", "grouped" if grouped else "full heads"]
    return f"tensor {tensor} data {data} sequence {sequence} zero {zero_stage} {' '.join(words)} x{accumulation}"


@pytest.mark.full_parity
@pytest.mark.parametrize("cell", CELLS, ids=name)
def test_cell(ranks: RankPool, cell: tuple[Any, ...], record_property: Any) -> None:
    (tensor, data, sequence), zero_stage, tied, fused, grouped, accumulation = cell
    config = tiny(
        model=model(tied, fused, grouped),
        optim=OPTIM,
        parallel={"tensor": tensor, "sequence": sequence, "zero_stage": zero_stage},
    )
    curves = ranks.run(tensor * data * sequence, spread, config, accumulation, False, False, STEPS)
    expected = plain(tied, fused, grouped)
    record_property("parity", differences(curves, expected))
    assert_same_curves(curves, expected, LOSS, NORM)
