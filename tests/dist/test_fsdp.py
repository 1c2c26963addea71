"""The second engine, torch's FSDP2, computes what one process and what DeepSpeed compute, and shares checkpoints."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.dist import test_carried, test_mixers
from tests.dist.pool import RankPool
from tests.dist.runs import STEPS, reference, spread, tiny
from tests.dist.test_block_options import plain as plain_options
from tests.dist.test_block_options import run_of as options_run
from tests.dist.test_checkpoint import HEAD, train_from
from tests.dist.test_engine import skip_one
from tests.dist.test_parity import LOSS, MODELS, NORM, assert_same_curves, plain
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError

LAYOUTS = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2)]


def fsdp(**parallel: Any) -> dict[str, Any]:
    return {"engine": "fsdp", **parallel}


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
@pytest.mark.parametrize(("world", "tensor"), LAYOUTS)
def test_layouts_equal_one_process(ranks: RankPool, world: int, tensor: int, zero_stage: int) -> None:
    index = LAYOUTS.index((world, tensor))
    name = list(MODELS)[(index + zero_stage) % len(MODELS)]
    masked, accumulation = index % 2 == 0, 2 if zero_stage != 2 or world == 2 else 1
    config = tiny(model=MODELS[name], parallel=fsdp(tensor=tensor, zero_stage=zero_stage))
    curves = ranks.run(world, spread, config, accumulation, masked, zero_stage == 1)
    assert_same_curves(curves, plain(name, masked), LOSS, NORM)


@pytest.mark.parametrize("name", test_mixers.OTHERS)
def test_mixers_equal_one_process(ranks: RankPool, name: str) -> None:
    tensor = 2 if test_mixers.can_split(name) else 1
    config = test_mixers.run_of(name, **fsdp(tensor=tensor, zero_stage=2))
    curves = ranks.run(2 * tensor, test_mixers.train, config, 2, False, True, test_mixers.STEPS)
    test_mixers.assert_equal(curves, name)


@pytest.mark.parametrize("name", ["alibi capped", "post sinusoidal"])
def test_block_options_equal_one_process(ranks: RankPool, name: str) -> None:
    curves = ranks.run(4, spread, options_run(name, **fsdp(tensor=2, zero_stage=3, recompute="full", overlap=True)))
    assert_same_curves(curves, plain_options(name, False), LOSS, NORM)


@pytest.mark.parametrize(
    ("name", "parallel"),
    [
        ("lstm", {"zero_stage": 1}),
        ("gated_delta", {"zero_stage": 3, "recompute": "full"}),
        ("transformer-xl", {"tensor": 2}),
    ],
)
def test_states_are_carried(ranks: RankPool, name: str, parallel: dict[str, Any]) -> None:
    """FSDP's hooks copy what is handed to a unit, and a unit writes its new state there."""
    curves = ranks.run(2, test_carried.train, test_carried.run_of(name, **fsdp(**parallel)), 2 if name == "lstm" else 1)
    for curve in curves:
        assert curve == pytest.approx(test_carried.reference(name), abs=LOSS)


@pytest.mark.parametrize(("world", "tensor", "zero_stage"), [(1, 1, 1), (2, 1, 3), (4, 2, 2)])
def test_bf16_stays_near(ranks: RankPool, world: int, tensor: int, zero_stage: int) -> None:
    config = tiny(parallel=fsdp(tensor=tensor, zero_stage=zero_stage), precision="bf16")
    assert_same_curves(ranks.run(world, spread, config), plain("tied fused", False), 5e-3, 5e-2)


@pytest.mark.parametrize("zero_stage", [1, 3])
def test_all_ranks_skip_what_is_not_finite_on_one(ranks: RankPool, zero_stage: int) -> None:
    for result in ranks.run(4, skip_one, tiny(parallel=fsdp(tensor=2, zero_stage=zero_stage))):
        assert result["outcomes"] == [(False, True), (False, True), (True, False), (False, True)]
        assert result["changed"] is False


def engines(tensor: int, zero_stage: int, engine: str) -> RunConfig:
    """Return a run whose model has widths that the ranks do not divide evenly."""
    model = {"n_heads": 8, "n_kv_heads": 4, "bias": True, "vocab_size": 66}
    return tiny(model=model, parallel={"engine": engine, "tensor": tensor, "zero_stage": zero_stage})


@functools.cache
def plain_engines() -> list[tuple[float, float]]:
    return reference(engines(1, 1, "deepspeed"), HEAD + 2 * STEPS)


@pytest.mark.parametrize(
    "order",
    [
        [(4, 2, 2, "deepspeed"), (2, 1, 3, "fsdp"), (4, 2, 1, "deepspeed")],
        [(4, 1, 3, "fsdp"), (1, 1, 0, "deepspeed"), (4, 2, 1, "fsdp")],
    ],
    ids=["there and back", "back and there"],
)
def test_a_run_changes_its_engine_on_resume(
    ranks: RankPool, tmp_path: Path, order: list[tuple[int, int, int, str]]
) -> None:
    """Some steps on one engine, then 12 on another, then 12 on the first: one process's curve that never stopped."""
    source, curve, start = None, [], 0
    for stop, (world, tensor, zero_stage, engine) in zip((HEAD, HEAD + STEPS, HEAD + 2 * STEPS), order, strict=True):
        config = engines(tensor, zero_stage, engine)
        (part, _), *_ = ranks.run(world, train_from, config, str(tmp_path), start, stop, source)
        curve += part
        source, start = str(tmp_path / f"step_{stop:09d}"), stop
    assert_same_curves([curve], plain_engines(), LOSS, NORM)


def test_resume_on_the_same_layout_is_bit_equal(ranks: RankPool, tmp_path: Path) -> None:
    config = engines(2, 2, "fsdp")
    (whole, _), *_ = ranks.run(4, train_from, config, str(tmp_path / "a"), 0, STEPS, None)
    (head, _), *_ = ranks.run(4, train_from, config, str(tmp_path / "b"), 0, 8, None)
    (tail, _), *_ = ranks.run(
        4, train_from, config, str(tmp_path / "b"), 8, STEPS, str(tmp_path / "b" / "step_000000008")
    )
    assert head + tail == whole
    same = [(tmp_path / run / f"step_{STEPS:09d}" / "rank_00000.safetensors").read_bytes() for run in "ab"]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("parallel", "expected"),
    [
        ({"zero_stage": 0}, "engine 'fsdp' cannot do zero_stage 0"),
        ({"sequence": 2}, "engine 'fsdp' cannot do sequence 2"),
        ({"offload": "optimizer"}, "engine 'fsdp' cannot do offload 'optimizer'"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_name(parallel: dict[str, Any], expected: str) -> None:
    with pytest.raises((UserError, ValidationError), match=expected):
        tiny(parallel=fsdp(**parallel))


def test_an_engine_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys, trainer.train; from trainer.engine.build import library_of; library_of('fsdp'); "
        "assert 'deepspeed' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
