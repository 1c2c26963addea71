"""The planner against published measurements, ZeRO's own table, and its own logic."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.planner.gpus import GPUS, find_gpu
from launch.planner.layouts import Layouts, layout_config, layouts
from launch.planner.memory import gpu_memory
from launch.planner.step_time import Shape, Way, all_reduce, step_time
from launch.planner.table import layouts_table
from trainer.config.load import run_from_values
from trainer.config.memory import rank_memory
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.config.run import RunConfig
from trainer.errors import UserError

# Narayanan et al. 2021 (arXiv 2104.04473), table 1: billions of parameters, heads, width, layers, tensor degree,
# pipeline degree, GPUs (A100 80 GB), sequences of a batch, achieved TFLOP/s of a GPU.
MEGATRON = [
    (1.7, 24, 2304, 24, 1, 1, 32, 512, 137),
    (3.6, 32, 3072, 30, 2, 1, 64, 512, 138),
    (7.5, 32, 4096, 36, 4, 1, 128, 512, 142),
    (18.4, 48, 6144, 40, 8, 1, 256, 1024, 135),
    (39.1, 64, 8192, 48, 8, 2, 512, 1536, 138),
    (76.1, 80, 10240, 60, 8, 4, 1024, 1792, 140),
    (145.6, 96, 12288, 80, 8, 8, 1536, 2304, 148),
    (310.1, 128, 16384, 96, 8, 16, 1920, 2160, 155),
    (529.6, 128, 20480, 105, 8, 35, 2520, 2520, 163),
    (1008.0, 160, 25600, 128, 8, 64, 3072, 3072, 163),
]
V, T = 51_200, 2048


def megatron_tflops(row: tuple, micro_batch: int) -> float:
    """Our estimate, in the paper's own count of FLOPs (its equation 3). The paper does not give the micro-batch."""
    _, heads, width, layers, tensor, pipeline, gpus, batch, _ = row
    data = gpus // (tensor * pipeline)
    on_stage = layers // pipeline
    chunks = 1 if pipeline == 1 else next((k for k in range(2, on_stage + 1) if on_stage % k == 0), 1)
    shape = Shape(width, 4 * width, layers, heads, heads, width // heads, V, T, gated=False)
    way = Way(
        data=data,
        tensor=tensor,
        pipeline=pipeline,
        chunks=chunks,
        zero=0,
        micro_batch=micro_batch,
        accumulation=batch // (data * micro_batch),
        recompute="full",
        fused_attention=False,
    )
    seconds = step_time(shape, way, GPUS["A100-SXM-80GB"], round(megatron_parameters(row))).total
    flops = 96 * batch * T * layers * width**2 * (1 + T / (6 * width) + V / (16 * layers * width))
    return flops / seconds / gpus / 1e12


def megatron_parameters(row: tuple) -> float:
    """The paper's equation 2."""
    _, _, h, layers, *_ = row
    return 12 * layers * h**2 * (1 + 13 / (12 * h) + (V + T) / (12 * layers * h))


@pytest.mark.parametrize("row", MEGATRON, ids=lambda row: f"{row[0]}B")
@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_megatron_table_within_a_fifth(row: tuple, micro_batch: int) -> None:
    assert abs(megatron_parameters(row) / 1e9 - row[0]) < 0.06, "the row is copied wrongly"
    assert abs(megatron_tflops(row, micro_batch) / row[-1] - 1) < 0.20


def seven_and_a_half_billion() -> ModelConfig:
    """A model whose parameters are close to ZeRO's example of 7.5 B; the formulas are compared on its exact number."""
    return ModelConfig(d_model=4096, n_layers=37, n_heads=32, vocab_size=8192, context_length=1, mlp="gelu")


@pytest.mark.parametrize(("stage", "published"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_formulas_exactly(stage: int, published: float) -> None:
    """Rajbhandari et al. 2020, figure 1: 7.5 B parameters, K = 12, 64 ranks; here in GB per rank."""
    memory = rank_memory(
        seven_and_a_half_billion(),
        ParallelConfig(zero_stage=stage),  # type: ignore[arg-type]
        data_parallel=64,
        micro_batch=1,
        bytes_per_value=2,
        gpu=True,
    )
    from trainer.config.counting import count_parameters

    psi, ranks = count_parameters(seven_and_a_half_billion()).total, 64
    states = memory.parameters + memory.gradients + memory.optimizer
    formulas = {
        0: 16 * psi,
        1: 4 * psi + 12 * psi / ranks,
        2: 2 * psi + 14 * psi / ranks,
        3: 16 * psi / ranks,
    }
    assert abs(states - formulas[stage]) <= 3, "three parts, each rounded down to a byte"
    assert abs(states / psi * 7.5 - published) < 0.06, "the paper's figures, rounded as it prints them"


def config(**changes: object) -> RunConfig:
    model = {"d_model": 512, "n_layers": 8, "n_heads": 8, "vocab_size": 8192, "context_length": 1024}
    values = {"model": {**model, **changes}, "data": {}, "batch": {"tokens_per_step": 2**18}, "tokens": "1B"}
    return run_from_values(values, "test")


@pytest.fixture(scope="module")
def found() -> Layouts:
    return layouts(config(), world=16, gpu="A100-SXM-80GB", price=2.0)


def test_layouts_are_ranked_and_consistent(found: Layouts) -> None:
    times = [estimate.time.total for estimate in found.ranked]
    assert times == sorted(times) and len(times) > 20
    for estimate in found.ranked:
        layout = estimate.layout
        assert layout.data * layout.sequence * layout.tensor == 16
        assert layout.data * layout.micro_batch * layout.accumulation == 256
        assert estimate.memory["total"] <= found.usable_bytes
        assert math.isclose(estimate.tokens_per_second * estimate.time.total, 2**18)
        assert 0 < estimate.mfu < 1
        assert estimate.cost == pytest.approx(estimate.hours * 16 * 2.0)


def test_what_does_not_fit_says_why(found: Layouts) -> None:
    reasons = [refused.reason for refused in found.refused]
    assert any("not a multiple of the tensor degree 16" in reason for reason in reasons)
    none = layouts(config(d_model=8192, n_heads=64, n_layers=80), world=1, gpu="A10")
    assert not none.ranked
    with pytest.raises(UserError, match=r"no layout fits on 1 x A10 \(22 GiB usable each\).*needs .* GiB a rank"):
        _ = none.best


def test_json_and_table_hold_the_same_best(found: Layouts) -> None:
    from rich.console import Console

    values = found.to_json()
    assert values["layouts"][0]["step_seconds"]["total"] == found.best.time.total
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(layouts_table(found))
    text = console.export_text()
    assert f"--set parallel.tensor={found.best.layout.tensor}" in text


def test_settings_lead_back_to_the_layout(found: Layouts) -> None:
    from trainer.config.load import set_values
    from trainer.config.plan import make_plan

    for estimate in found.ranked[:5]:
        values = set_values(config().model_dump(mode="json"), estimate.layout.settings())
        plan = make_plan(run_from_values(values, "again"), world=16, gpu=True)
        layout = estimate.layout
        assert (plan.degrees.data, plan.degrees.tensor, plan.micro_batch) == (
            layout.data,
            layout.tensor,
            layout.micro_batch,
        )
        for part in ("parameters", "gradients", "optimizer", "activations", "logits", "working"):
            assert plan.memory_bytes[part] == estimate.memory[part]


def test_an_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'H100-SXM'"):
        find_gpu("H100-SMX")
    with pytest.raises(UserError, match="no GPU 'A100': say A100-SXM-40GB or A100-SXM-80GB"):
        find_gpu("A100")


def test_fp8_is_planned_for_gpus_that_have_it() -> None:
    run = config().model_copy(update={"precision": "fp8"})
    with pytest.raises(UserError, match=r"fp8 needs a Hopper GPU .*A100-SXM-80GB has 8\.0: set precision to bf16"):
        layouts(run, world=8, gpu="A100-SXM-80GB")
    assert layouts(run, world=8, gpu="H100-SXM").ranked
    odd = run.model_copy(update={"model": run.model.model_copy(update={"d_ff": 8 * 24})})
    found = layouts(odd, world=8, gpu="H100-SXM")
    assert {e.layout.tensor for e in found.ranked} == {1, 2, 4}, "192 / 8 = 24 is not a multiple of 16"
    assert "d_ff / tensor 8 is 24, not a multiple of 16" in {r.reason.split(": ")[1] for r in found.refused}


def test_tensor_groups_across_nodes_are_slower() -> None:
    shape = Shape(4096, 16384, 32, 32, 32, 128, V, T, gated=False)
    inside = step_time(shape, Way(data=1, tensor=8), GPUS["H100-SXM"], 7 * 10**9)
    across = step_time(shape, Way(data=1, tensor=8, ranks_per_node=4), GPUS["H100-SXM"], 7 * 10**9)
    assert across.tensor > 3 * inside.tensor and across.matrices == inside.matrices


WAYS = st.builds(
    Way,
    data=st.sampled_from([1, 2, 8, 64]),
    tensor=st.sampled_from([1, 2, 8]),
    sequence=st.sampled_from([1, 2]),
    zero=st.sampled_from([0, 1, 2, 3]),
    micro_batch=st.sampled_from([1, 4]),
    accumulation=st.integers(1, 8),
    recompute=st.sampled_from(["none", "selective", "full"]),
)


@settings(max_examples=60, deadline=None)
@given(WAYS, st.sampled_from(sorted(GPUS)))
def test_step_time_moves_the_right_way(way: Way, gpu: str) -> None:
    shape = Shape(2048, 8192, 24, 16, 16, 128, V, T, gated=True)
    here = step_time(shape, way, GPUS[gpu], 10**9)
    assert all(value >= 0 for value in here.by_part().values())
    more = step_time(shape, dataclasses.replace(way, accumulation=way.accumulation + 1), GPUS[gpu], 10**9)
    assert more.total > here.total
    again = step_time(shape, dataclasses.replace(way, recompute="full"), GPUS[gpu], 10**9)
    assert again.matrices >= here.matrices
    faster = dataclasses.replace(GPUS[gpu], flops=GPUS[gpu].flops * 2)
    assert step_time(shape, way, faster, 10**9).total <= here.total


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([0, 1, 2, 3]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 4, 16]))
def test_a_higher_stage_never_holds_more(stage: int, tensor: int, data: int) -> None:
    model = config().model

    def held(zero: int) -> int:
        parallel = ParallelConfig(zero_stage=zero, tensor=tensor)  # type: ignore[arg-type]
        parts = gpu_memory(model, parallel, micro_batch=1, data=data)
        return parts["parameters"] + parts["gradients"] + parts["optimizer"]

    if stage:
        assert held(stage) <= held(stage - 1)


def test_all_reduce_is_the_ring() -> None:
    assert all_reduce(8e9, 4, 1e9) == pytest.approx(12.0, rel=1e-4)


def test_a_layout_is_a_parallel_section(found: Layouts) -> None:
    section = layout_config(found.best.layout)
    assert (section.data, section.tensor) == (found.best.layout.data, found.best.layout.tensor)


@pytest.mark.slow
def test_a_layout_of_a_thousand_ranks_is_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real model, spread by the real code over fake ranks, holds exactly the parameters that were planned."""
    from launch.planner.verify import verify

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run = config(d_model=1024, n_heads=16, n_layers=4)
    run = run.model_copy(update={"batch": run.batch.model_copy(update={"tokens_per_step": 2**20})})
    layout = next(
        e.layout
        for e in layouts(run, world=1024, gpu="H100-SXM").ranked
        if (e.layout.tensor, e.layout.zero_stage) == (4, 1)
    )
    found = verify(run, layout, 1024)
    assert found["parameters"] == found["planned_parameters"]
    assert 0.5 < found["saved_bytes"] / found["planned_saved_bytes"] < 2.5
    with pytest.raises(UserError, match=r"does not work: .*not a multiple"):
        verify(run, dataclasses.replace(layout, tensor=3, data=1), 3)
