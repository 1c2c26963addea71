"""Every layout computes what one plain-torch process computes, step by step."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import reference, spread, tiny
from trainer.config.run import RunConfig

LOSS, NORM = 2e-6, 2e-6  # absolute on the loss, relative on the gradient norm

# (world, tensor): the rest of the world is data parallel.
LAYOUTS = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]
MODELS: dict[str, dict[str, Any]] = {
    "tied fused": {},
    "untied separate": {"tied_embeddings": False, "fused_qkv": False},
    "grouped-query fused": {"n_heads": 8, "n_kv_heads": 4, "qk_norm": True},
    "gelu biases learned": {
        "mlp": "gelu_tanh", "norm": "layernorm", "position": "learned", "bias": True, "tied_embeddings": False,
    },
}  # fmt: skip


@functools.cache
def plain(name: str, masked: bool) -> list[tuple[float, float]]:
    return reference(tiny(model=MODELS[name]), masked=masked)


def assert_same_curves(
    curves: list[list[tuple[float, float]]], expected: list[tuple[float, float]], loss: float, norm: float
) -> None:
    """Assert that every rank reported the expected losses and gradient norms."""
    for rank, curve in enumerate(curves):
        for step, (got, want) in enumerate(zip(curve, expected, strict=True)):
            assert abs(got[0] - want[0]) <= loss, f"rank {rank} step {step}: loss {got[0]} instead of {want[0]}"
            assert abs(got[1] - want[1]) <= norm * want[1], (
                f"rank {rank} step {step}: norm {got[1]} instead of {want[1]}"
            )


def differences(curves: list[list[tuple[float, float]]], expected: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the largest difference of a loss, and of a gradient norm relative to the expected one."""
    pairs = [pair for curve in curves for pair in zip(curve, expected, strict=True)]
    return max(abs(a[0] - b[0]) for a, b in pairs), max(abs(a[1] - b[1]) / b[1] for a, b in pairs)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("world", "tensor"), LAYOUTS)
def test_layouts_equal_one_process(ranks: RankPool, world: int, tensor: int, zero_stage: int) -> None:
    # Each layout and stage meets another model, so that every model meets every stage and every layout.
    index = LAYOUTS.index((world, tensor))
    name = list(MODELS)[(index + zero_stage) % len(MODELS)]
    config = tiny(model=MODELS[name], parallel={"tensor": tensor, "zero_stage": zero_stage})
    accumulation = 2 if index % 2 else 1
    curves = ranks.run(world, spread, config, accumulation, False, zero_stage == 1)
    assert_same_curves(curves, plain(name, False), LOSS, NORM)


@pytest.mark.parametrize(
    ("world", "sequence", "tensor", "zero_stage"),
    [(2, 2, 1, 1), (4, 4, 1, 2), (4, 2, 2, 1), (4, 2, 1, 0), (4, 2, 1, 3), (4, 2, 2, 3)],
)
@pytest.mark.parametrize("masked", [False, True])
def test_sequence_parallel(
    ranks: RankPool, world: int, sequence: int, tensor: int, zero_stage: int, masked: bool
) -> None:
    name = "gelu biases learned" if zero_stage % 2 else "tied fused"
    config = tiny(model=MODELS[name], parallel={"sequence": sequence, "tensor": tensor, "zero_stage": zero_stage})
    assert_same_curves(ranks.run(world, spread, config, 1 + masked, masked), plain(name, masked), LOSS, NORM)


RISE = (2, 2, 2, 4, 4, 4)  # sequences of the first steps, and then 8


@functools.cache
def risen(masked: bool) -> list[tuple[float, float]]:
    return reference(tiny(), 20, masked=masked, sizes=RISE)


@pytest.mark.parametrize(
    ("world", "parallel", "accumulation"),
    [
        (1, {"zero_stage": 0}, 4), (2, {"zero_stage": 0}, 4), (2, {"zero_stage": 1}, 2), (2, {"zero_stage": 2}, 4),
        (2, {"zero_stage": 3}, 4), (4, {"tensor": 2, "zero_stage": 1}, 2), (2, {"sequence": 2, "zero_stage": 2}, 4),
        (2, {"zero_stage": 1, "offload": "optimizer"}, 2), (2, {"zero_stage": 2, "engine": "fsdp"}, 4),
    ],
)  # fmt: skip
def test_a_batch_that_rises_equals_one_process(
    ranks: RankPool, world: int, parallel: dict[str, Any], accumulation: int
) -> None:
    masked = "tensor" in parallel or "sequence" in parallel
    curves = ranks.run(world, spread, tiny(parallel=parallel), accumulation, masked, False, 20, RISE, timeout=400.0)
    assert_same_curves(curves, risen(masked), LOSS, NORM)


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize(("tensor", "zero_stage"), [(2, 1), (1, 3)])
def test_recomputation_changes_nothing(ranks: RankPool, recompute: str, tensor: int, zero_stage: int) -> None:
    config = tiny(parallel={"tensor": tensor, "zero_stage": zero_stage, "recompute": recompute})
    assert_same_curves(ranks.run(2, spread, config), plain("tied fused", False), LOSS, NORM)


@pytest.mark.parametrize(("world", "zero_stage"), [(2, 1), (4, 1), (4, 3)])
def test_overlap_changes_nothing(ranks: RankPool, world: int, zero_stage: int) -> None:
    name = "gelu biases learned" if world == 2 else "grouped-query fused"
    config = tiny(model=MODELS[name], parallel={"tensor": 2, "zero_stage": zero_stage, "overlap": True})
    assert_same_curves(ranks.run(world, spread, config), plain(name, False), LOSS, NORM)


@pytest.mark.parametrize(("world", "tensor", "zero_stage"), [(2, 2, 0), (4, 2, 1)])
def test_label_smoothing_under_vocabulary_parallelism(
    ranks: RankPool, world: int, tensor: int, zero_stage: int
) -> None:
    optim = {"lr": 3e-3, "clip_norm": 0.5, "label_smoothing": 0.1}
    expected = reference(tiny(optim=optim), masked=True)
    config = tiny(optim=optim, parallel={"tensor": tensor, "zero_stage": zero_stage})
    assert_same_curves(ranks.run(world, spread, config, 2, True), expected, LOSS, NORM)
    assert abs(expected[-1][0] - plain("tied fused", True)[-1][0]) > 1e-2  # smoothing is no setting without effect


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel",
    [
        {"tensor": 2, "zero_stage": 0},
        {"sequence": 2, "zero_stage": 1},
        {"zero_stage": 2},
        {"engine": "fsdp", "zero_stage": 1},
        {"engine": "fsdp", "zero_stage": 2, "tensor": 2},
        {"engine": "fsdp", "zero_stage": 3, "compile": "blocks"},
        {"engine": "fsdp", "zero_stage": 1, "compile": "model"},
        {"zero_stage": 1, "compile": "model"},
    ],
    ids=str,
)
def test_what_is_compiled_changes_nothing(ranks: RankPool, parallel: dict[str, Any]) -> None:
    config = tiny(parallel={"compile": True, **parallel})
    assert_same_curves(ranks.run(2, spread, config, timeout=500.0), plain("tied fused", False), LOSS, NORM)


def spread_traced(config: RunConfig) -> list[Any]:
    """Train with all that torch.compile does but making kernels, which takes most of its time."""
    import torch

    compile_ = torch.compile
    torch.compile = functools.partial(compile_, backend="aot_eager_decomp_partition")
    try:
        return spread(config, 2, True)
    finally:
        torch.compile = compile_


@pytest.mark.parametrize(
    "parallel",
    [
        {"tensor": 2, "zero_stage": 0},
        {"sequence": 2, "zero_stage": 1},
        {"zero_stage": 2},
        {"engine": "fsdp", "zero_stage": 2},
        {"engine": "fsdp", "zero_stage": 1, "tensor": 2},
        {"engine": "fsdp", "zero_stage": 3, "tensor": 2, "compile": "blocks"},
        {"engine": "fsdp", "zero_stage": 2, "recompute": "full"},
        {"tensor": 2, "zero_stage": 1, "recompute": "selective"},
        {"engine": "fsdp", "zero_stage": 3, "recompute": "full", "compile": "blocks"},
        {"tensor": 2, "zero_stage": 1, "recompute": "full", "compile": "blocks"},
    ],
    ids=str,
)
def test_a_model_as_one_program_equals_one_process(ranks: RankPool, parallel: dict[str, Any]) -> None:
    """With document masks, weights, and two micro-batches."""
    config = tiny(parallel={"compile": "model", **parallel})
    curves = ranks.run(2, spread_traced, config, timeout=400.0)
    assert_same_curves(curves, plain("tied fused", True), LOSS, NORM)


@pytest.mark.parametrize(
    ("offload", "zero_stage", "tensor"),
    [("optimizer", 1, 1), ("optimizer", 2, 1), ("optimizer", 3, 1), ("optimizer", 1, 2), ("parameters", 3, 1)],
)
def test_offload_changes_nothing(ranks: RankPool, offload: str, zero_stage: int, tensor: int) -> None:
    config = tiny(parallel={"tensor": tensor, "zero_stage": zero_stage, "offload": offload})
    assert_same_curves(ranks.run(2, spread, config, 2), plain("tied fused", False), LOSS, NORM)


@pytest.mark.parametrize(("world", "tensor", "zero_stage"), [(1, 1, 0), (2, 1, 1), (4, 2, 2), (2, 2, 3)])
def test_bf16_stays_near(ranks: RankPool, world: int, tensor: int, zero_stage: int) -> None:
    config = tiny(parallel={"tensor": tensor, "zero_stage": zero_stage}, precision="bf16")
    assert_same_curves(ranks.run(world, spread, config), plain("tied fused", False), 5e-3, 5e-2)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_masks_and_weights_count_tokens_once(ranks: RankPool, zero_stage: int) -> None:
    """Micro-batches with different numbers of counted tokens, one of them with none in its first sequence."""
    config = tiny(parallel={"tensor": 2, "zero_stage": zero_stage})
    assert_same_curves(ranks.run(4, spread, config, 2, True), plain("tied fused", True), LOSS, NORM)
