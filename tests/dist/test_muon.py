"""Muon works on whole matrices whatever the layout, and its state outlives the layout like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dist.pool import RankPool
from tests.dist.runs import STEPS, global_batch, micro_batches, spread, tiny
from tests.dist.test_checkpoint import train_from
from trainer.config.run import RunConfig
from trainer.optim.muon import orthogonalise


def muon(tensor: int = 1, zero_stage: int = 0, engine: str = "deepspeed") -> RunConfig:
    return tiny(
        model={"n_heads": 8, "n_kv_heads": 4},
        optim={"name": "muon", "lr": 5e-3},
        parallel={"engine": engine, "tensor": tensor, "zero_stage": zero_stage},
    )


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 24), columns=st.integers(2, 24), seed=st.integers(0, 99))
def test_singular_values_come_near_one(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(orthogonalise(u @ torch.diag(s.clamp_min(0.1 * float(s.max()))) @ v))
    assert values.min() > 0.5 and values.max() < 1.3


@pytest.fixture(scope="module")
def one_rank(ranks: RankPool) -> list[tuple[float, float]]:
    """Return the curve of one rank, which learns."""
    curve: list[tuple[float, float]] = ranks.run(1, spread, muon())[0]
    assert curve[-1][0] < curve[0][0] - 0.2
    return curve


LAYOUTS = [(2, 1, 0), (2, 2, 0), (4, 2, 0), (2, 1, 1), (4, 2, 1), (2, 1, 2), (4, 2, 2), (2, 1, 3), (4, 2, 3), (4, 1, 1)]
FSDP = [(1, 1, 1), (4, 2, 2), (4, 1, 3)]


@pytest.mark.parametrize(
    ("engine", "world", "tensor", "zero_stage"),
    [*(("deepspeed", *layout) for layout in LAYOUTS), *(("fsdp", *layout) for layout in FSDP)],
)
def test_layouts_agree(
    ranks: RankPool, one_rank: list[tuple[float, float]], engine: str, world: int, tensor: int, zero_stage: int
) -> None:
    """Within 1e-4: the iteration magnifies rounding of small singular values."""
    for curve in ranks.run(world, spread, muon(tensor, zero_stage, engine)):
        for got, want in zip(curve, one_rank, strict=True):
            assert got[0] == pytest.approx(want[0], abs=1e-4)


def first_update(config: RunConfig) -> dict[str, torch.Tensor]:
    """Take one step; return by how much each matrix that this rank holds whole has changed, in its flat ranges."""
    from trainer.engine.build import build_engine
    from trainer.models.build import build_model
    from trainer.parallel.start import start

    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    model = build_model(config.model, config.seed)
    engine = build_engine(config, model, mesh, lr=1.0, accumulation=1, device=device)
    before = {f.name: f.weight.clone() for f in engine.sharded.fragments()}
    batches = micro_batches(global_batch(0), mesh.dp_rank, mesh.dp_size, 1)
    engine.train_step(batches, float(config.optim.lr))
    found = {f"{f.name} {f.held[0]}": f.weight - before[f.name] for f in engine.sharded.fragments()}
    engine.close()
    return found


def reference_update(config: RunConfig, name: str) -> torch.Tensor:
    """Return Muon's first update of a matrix as its paper states it, by a singular value decomposition."""
    from trainer.models.build import build_model

    model, batch = build_model(config.model, config.seed), global_batch(0)
    model(batch.inputs, batch.targets).mean().backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm)
    assert norm > config.optim.clip_norm
    parameter = dict(model.named_parameters())[name]
    assert parameter.grad is not None
    u, _, v = torch.linalg.svd(parameter.grad, full_matrices=False)
    update = (u @ v) * 0.2 * max(parameter.shape) ** 0.5
    lr = float(config.optim.lr) * config.optim.muon_lr_factor
    return -lr * (update + (config.optim.muon_weight_decay or 0) * parameter.detach())


@pytest.mark.parametrize(
    "parallel", [{"zero_stage": 0}, {"zero_stage": 1}, {"zero_stage": 2}, {"zero_stage": 3}, {"engine": "fsdp"}]
)
def test_the_update_is_that_of_muon_at_every_stage(ranks: RankPool, parallel: dict[str, Any]) -> None:
    """With its own rate and decay. AdamW's first update would have the same size in every entry."""
    name = "blocks.1.mlp.down.weight"
    config = tiny(
        optim={"name": "muon", "lr": 5e-3, "muon_lr_factor": 2.0, "muon_weight_decay": 0.3},
        parallel=parallel,
    )
    wanted = reference_update(config, name).flatten()
    found: dict[int, torch.Tensor] = {}
    for part in ranks.run(2, first_update, config):
        found |= {int(key.split()[1]): value for key, value in part.items() if key.split()[0] == name}
    got = torch.cat([found[start] for start in sorted(found)])
    assert got.shape == wanted.shape
    similarity = torch.nn.functional.cosine_similarity(got, wanted, dim=0)
    assert similarity > 0.97 and float(got.norm() / wanted.norm()) == pytest.approx(1, abs=0.15)
    adam = wanted.sign() * wanted.norm() / wanted.numel() ** 0.5
    assert torch.nn.functional.cosine_similarity(got, adam, dim=0) < 0.9


@pytest.mark.parametrize(
    ("tensor", "stage", "engine", "other_stage"),
    [(2, 0, "deepspeed", 1), (1, 1, "deepspeed", 3), (1, 3, "deepspeed", 2), (1, 2, "fsdp", 1)],
)
def test_resume(ranks: RankPool, tmp_path: Path, tensor: int, stage: int, engine: str, other_stage: int) -> None:
    """Another layout, and from FSDP another engine too, goes on with what was saved."""
    config = muon(tensor, stage, engine)
    (whole, _), *_ = ranks.run(2, train_from, config, str(tmp_path / "a"), 0, STEPS, None)
    (head, _), *_ = ranks.run(2, train_from, config, str(tmp_path / "b"), 0, 8, None)
    source = str(tmp_path / "b" / "step_000000008")
    (tail, _), *_ = ranks.run(2, train_from, config, str(tmp_path / "b"), 8, STEPS, source)
    assert head + tail == whole
    (other, _), *_ = ranks.run(2, train_from, muon(1, other_stage), str(tmp_path / "c"), 8, STEPS, source)
    assert [loss for loss, _ in other] == pytest.approx([loss for loss, _ in tail], abs=1e-4)
