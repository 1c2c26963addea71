"""A checkpoint is a property of the run: it resumes bit-equal on its own layout and equal on every other."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import STEPS, global_batch, micro_batches, reference, tiny
from trainer.config.run import RunConfig


def train_from(
    config: RunConfig, root: str, first: int, stop: int, source: str | None, accumulation: int = 1
) -> tuple[list[tuple[float, float]], dict[str, Any]]:
    """Load `source` if given, train steps [first, stop), save to `root`; return the curve and the loaded state."""
    import torch

    from trainer.checkpoint.load import load
    from trainer.checkpoint.manifest import read_manifest
    from trainer.checkpoint.save import save
    from trainer.engine.build import build_engine
    from trainer.models.build import build_model
    from trainer.parallel.start import start

    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    engine = build_engine(
        config, build_model(config.model, config.seed + 1000 * bool(source)), mesh,
        lr=1.0, accumulation=accumulation, device=device,
    )  # fmt: skip
    state = {}
    if source:
        manifest = read_manifest(Path(source))
        load(engine, Path(source), manifest)
        state = manifest.state
    curve = []
    for step in range(first, stop):
        batches = micro_batches(global_batch(step), mesh.dp_rank, mesh.dp_size, accumulation)
        outcome = engine.train_step(batches, float(config.optim.lr))
        curve.append((outcome.loss, outcome.grad_norm))
    save(engine, Path(root), stop, {"tokens": stop * 128})
    engine.close()
    return curve, state


Layout = tuple[int, int, int, int]  # world, tensor degree, ZeRO stage, sequence degree
HEAD = 4  # steps before the first change of layout


def layout(tensor: int, zero_stage: int, sequence: int = 1) -> RunConfig:
    return tiny(
        model={"n_heads": 8, "n_kv_heads": 4, "bias": True},
        parallel={"tensor": tensor, "zero_stage": zero_stage, "sequence": sequence},
    )


@functools.cache
def plain() -> list[tuple[float, float]]:
    return reference(layout(1, 1), HEAD + 2 * STEPS)


@pytest.mark.parametrize(("world", "tensor", "zero_stage"), [(1, 1, 0), (2, 1, 0), (4, 2, 1), (4, 2, 2), (4, 2, 3)])
def test_resume_on_the_same_layout_is_bit_equal(
    ranks: RankPool, tmp_path: Path, world: int, tensor: int, zero_stage: int
) -> None:
    config = layout(tensor, zero_stage)
    (whole, _), *_ = ranks.run(world, train_from, config, str(tmp_path / "a"), 0, STEPS, None)
    (head, _), *_ = ranks.run(world, train_from, config, str(tmp_path / "b"), 0, 8, None)
    source = str(tmp_path / "b" / "step_000000008")
    (tail, state), *_ = ranks.run(world, train_from, config, str(tmp_path / "b"), 8, STEPS, source)
    assert head + tail == whole
    assert state == {"tokens": 8 * 128}
    same = [(tmp_path / run / f"step_{STEPS:09d}" / "rank_00000.safetensors").read_bytes() for run in "ab"]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        # world, tensor, ZeRO stage, sequence; what is left of the world is data parallel
        pytest.param((4, 2, 1, 1), (2, 1, 1, 1), (4, 2, 1, 1), id="tensor 2 1 2"),
        pytest.param((2, 2, 0, 1), (4, 4, 0, 1), (2, 2, 0, 1), id="tensor 2 4 2"),
        pytest.param((2, 1, 1, 1), (1, 1, 1, 1), (2, 1, 1, 1), id="data 2 1 2"),
        pytest.param((2, 1, 2, 1), (4, 1, 2, 1), (2, 1, 2, 1), id="data 2 4 2"),
        pytest.param((2, 1, 1, 1), (2, 1, 3, 1), (2, 1, 1, 1), id="zero 1 3 1"),
        pytest.param((2, 1, 1, 2), (1, 1, 1, 1), (2, 1, 1, 2), id="sequence 2 1 2"),
        pytest.param((2, 1, 3, 1), (4, 1, 3, 2), (4, 1, 3, 4), id="sequence 1 2 4"),
        pytest.param((4, 2, 1, 2), (2, 1, 3, 1), (4, 4, 2, 1), id="all at once"),
        pytest.param((1, 1, 0, 1), (4, 2, 3, 2), (4, 1, 2, 1), id="all at once, other way"),
    ],
)
def test_resume_on_other_layouts_twice_in_a_row(
    ranks: RankPool,
    tmp_path: Path,
    first: Layout,
    second: Layout,
    third: Layout,
) -> None:
    """Some steps, then 12 on another layout, then 12 on a third: the curve of one process that never stopped."""
    source, curve = None, []
    for (world, tensor, zero_stage, sequence), start, stop in (
        (first, 0, HEAD), (second, HEAD, HEAD + STEPS), (third, HEAD + STEPS, HEAD + 2 * STEPS),
    ):  # fmt: skip
        config = layout(tensor, zero_stage, sequence)
        (part, _), *_ = ranks.run(world, train_from, config, str(tmp_path), start, stop, source)
        curve += part
        source = str(tmp_path / f"step_{stop:09d}")
    for step, (got, want) in enumerate(zip(curve, plain(), strict=True)):
        assert abs(got[0] - want[0]) <= 2e-6, f"step {step}: loss {got[0]} instead of {want[0]}"
        assert abs(got[1] - want[1]) <= 2e-6 * want[1], f"step {step}: norm {got[1]} instead of {want[1]}"
