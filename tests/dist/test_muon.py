"""Muon works on whole matrices whatever the layout, and its state outlives the layout like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dist.pool import RankPool
from tests.dist.runs import STEPS, spread, tiny
from tests.dist.test_checkpoint import train_from
from trainer.config.run import RunConfig
from trainer.optim.muon import orthogonalise


def muon(tensor: int = 1, zero_stage: int = 0) -> RunConfig:
    return tiny(
        model={"n_heads": 8, "n_kv_heads": 4},
        optim={"name": "muon", "lr": 5e-3},
        parallel={"tensor": tensor, "zero_stage": zero_stage},
    )


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 24), columns=st.integers(2, 24), seed=st.integers(0, 99))
def test_singular_values_come_near_one(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(orthogonalise(u @ torch.diag(s.clamp_min(0.1 * float(s.max()))) @ v))
    assert values.min() > 0.5 and values.max() < 1.3


@pytest.mark.parametrize(("world", "tensor"), [(2, 1), (2, 2), (4, 2)])
def test_layouts_agree(ranks: RankPool, world: int, tensor: int) -> None:
    """Within 1e-4: the iteration magnifies rounding of small singular values."""
    expected = ranks.run(1, spread, muon())[0]
    for curve in ranks.run(world, spread, muon(tensor)):
        for got, want in zip(curve, expected, strict=True):
            assert got[0] == pytest.approx(want[0], abs=1e-4)
    assert expected[-1][0] < expected[0][0] - 0.3


def test_resume(ranks: RankPool, tmp_path: Path) -> None:
    (whole, _), *_ = ranks.run(2, train_from, muon(2), str(tmp_path / "a"), 0, STEPS, None)
    (head, _), *_ = ranks.run(2, train_from, muon(2), str(tmp_path / "b"), 0, 8, None)
    source = str(tmp_path / "b" / "step_000000008")
    (tail, _), *_ = ranks.run(2, train_from, muon(2), str(tmp_path / "b"), 8, STEPS, source)
    assert head + tail == whole
    (other, _), *_ = ranks.run(2, train_from, muon(1), str(tmp_path / "c"), 8, STEPS, source)
    assert [loss for loss, _ in other] == pytest.approx([loss for loss, _ in tail], abs=1e-4)
