"""The planner against ZeRO's own table, the plan, and its own logic. Published runs are in test_published.py."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.commands.plan import plan
from launch.planner.compute import Compute
from launch.planner.expected import step_on_gpus
from launch.planner.gpus import ALIASES, GPUS, find_gpu
from launch.planner.layouts import Layouts, layouts, with_parallel
from launch.planner.rates import RATES
from launch.planner.shape import Shape, Way
from launch.planner.step_time import step_time
from launch.planner.table import layouts_table
from launch.planner.traffic import Traffic, all_reduce
from launch.planner.verify import verify, with_layout
from trainer.config.batch import BatchPlan
from trainer.config.load import run_from_values, set_values
from trainer.config.memory import rank_memory
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.config.plan import make_plan
from trainer.config.run import RunConfig
from trainer.errors import UserError

V, T = 51_200, 2048


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
        assert estimate.memory["total"] <= found.gpu.usable
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


@pytest.mark.parametrize("changes", [[], ["precision=fp32"], ["parallel.compile=true"], ["model.dropout=0.1"]], ids=str)
def test_memory_is_that_of_the_plan(changes: list[str]) -> None:
    """Part by part and in total, for every layout that fits: there is one model of memory."""
    run = run_from_values(set_values(config().model_dump(mode="json"), changes), "test")
    found = layouts(run, world=8, gpu="A100-SXM-80GB")
    assert len(found.ranked) > 20
    for estimate in found.ranked:
        plan = make_plan(with_layout(run, estimate.layout), world=8, gpu=True)
        layout = estimate.layout
        assert (plan.degrees.data, plan.degrees.tensor, plan.degrees.sequence) == (
            layout.data,
            layout.tensor,
            layout.sequence,
        )
        assert (plan.micro_batch, plan.accumulation) == (layout.micro_batch, layout.accumulation)
        assert plan.memory_bytes == estimate.memory


def test_gradients_are_counted_once() -> None:
    """At stage 1 in bf16 a rank holds 2 bytes of parameter, 4 of gradient, and its share of 12."""
    run = run_from_values(
        set_values(config().model_dump(mode="json"), ["parallel.zero_stage=1", "batch.micro_batch=1"]), "test"
    )
    estimate = next(
        e for e in layouts(run, world=8, gpu="A100").ranked if (e.layout.zero_stage, e.layout.data) == (1, 8)
    )
    from trainer.config.counting import count_parameters

    psi, parts = count_parameters(run.model).total, estimate.memory
    assert "accumulation" not in parts
    assert parts["parameters"] + parts["gradients"] + parts["widening"] == 6 * psi
    assert parts["optimizer"] == 12 * psi // 8


SMALL_RUNS = st.fixed_dictionaries(
    {
        "sequences": st.sampled_from([12, 16, 24]),
        "n_kv_heads": st.sampled_from([2, 4, 8]),
        "vocab_size": st.sampled_from([8191, 8192]),
        "context_length": st.sampled_from([512, 2048]),
        "precision": st.sampled_from(["auto", "fp32"]),
    }
)


@settings(max_examples=10, deadline=None)
@given(SMALL_RUNS, st.sampled_from([4, 6, 8]), st.sampled_from(["A100-SXM-40GB", "RTX-4090", "H100-SXM"]))
def test_the_first_layout_is_the_best_by_its_own_estimate(values: dict, world: int, gpu: str) -> None:
    """Every layout is enumerated here by the plan alone: none that fits is faster than the first."""
    changes = {name: values[name] for name in ("n_kv_heads", "vocab_size", "context_length")}
    run = config(d_model=1024, n_layers=24, **changes)
    tokens = values["sequences"] * run.model.context_length
    run = run.model_copy(
        update={"batch": run.batch.model_copy(update={"tokens_per_step": tokens}), "precision": values["precision"]}
    )
    found = layouts(run, world=world, gpu=gpu)
    fastest = math.inf
    for tensor, sequence in itertools.product(range(1, world + 1), repeat=2):
        for stage, recompute, micro in itertools.product(
            range(4), ("none", "selective", "full"), range(1, values["sequences"] + 1)
        ):
            fastest = min(fastest, feasible_seconds(run, world, gpu, (tensor, sequence, stage, recompute, micro)))
    assert (found.ranked[0].time.total if found.ranked else math.inf) == fastest


def feasible_seconds(run: RunConfig, world: int, gpu: str, layout: tuple) -> float:
    """Return the seconds of a step, infinity where the plan refuses the layout or it does not fit."""
    tensor, sequence, stage, recompute, micro = layout
    parallel = ParallelConfig(tensor=tensor, sequence=sequence, zero_stage=stage, recompute=recompute)
    batch = run.batch.model_copy(update={"micro_batch": micro})
    one = run.model_copy(update={"parallel": parallel, "batch": batch})
    try:
        plan = make_plan(one, world=world, gpu=True)
    except UserError:
        return math.inf
    if plan.memory_bytes["total"] > GPUS[gpu].usable:
        return math.inf
    shares = BatchPlan(0, 0, plan.micro_batch, plan.accumulation)
    return step_on_gpus(one, plan.degrees, shares, GPUS[gpu], ranks_per_node=world).total


def test_other_parallel_settings_are_kept() -> None:
    run = run_from_values(set_values(config().model_dump(mode="json"), ["parallel.compile=true"]), "test")
    found = layouts(run, world=8, gpu="H100")
    assert {estimate.layout.zero_stage for estimate in found.ranked} == {0, 1, 2}, "compile is refused at stage 3"
    assert any("compile gains nothing with zero_stage 3" in refused.reason for refused in found.impossible)
    assert with_parallel(run, found.best.layout).parallel.compile
    eager = layouts(config(), world=8, gpu="H100")
    same = next(e for e in eager.ranked if e.layout == found.best.layout)
    assert same.time.elementwise > found.best.time.elementwise and same.time.matrices == found.best.time.matrices


def test_an_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'H100-SXM'"):
        find_gpu("H100-SMX")
    with pytest.raises(UserError, match="unknown GPU 'A100-SXM': say A100-SXM-40GB or A100-SXM-80GB"):
        find_gpu("A100-SXM")


def test_one_table_for_all_commands() -> None:
    from launch.scaling.decide import flops_of_cluster

    for name in [*GPUS, *ALIASES]:
        assert flops_of_cluster(1, 1, 1.0, name.lower()) == 86_400 * find_gpu(name).flops
        assert layouts(config(), world=1, gpu=name).gpu is find_gpu(name)
    assert find_gpu("NVIDIA H100_SXM") is find_gpu("H100") is GPUS["H100-SXM"]
    with pytest.raises(UserError, match="did you mean 'H200'"):
        flops_of_cluster(1, 1, 0.4, "H220")


def test_fp8_is_planned_for_gpus_that_have_it() -> None:
    run = config().model_copy(update={"precision": "fp8"})
    with pytest.raises(UserError, match=r"fp8 needs a Hopper GPU .*A100-SXM-80GB has 8\.0: set precision to bf16"):
        layouts(run, world=8, gpu="A100-SXM-80GB")
    assert layouts(run, world=8, gpu="H100-SXM").ranked
    odd = run.model_copy(update={"model": run.model.model_copy(update={"d_ff": 8 * 24})})
    found = layouts(odd, world=8, gpu="H100-SXM")
    assert {e.layout.tensor for e in found.ranked} == {1, 2, 4}, "192 / 8 = 24 is not a multiple of 16"
    assert "d_ff / tensor 8 is 24, not a multiple of 16" in {r.reason.split(": ")[1] for r in found.refused}
    with pytest.raises(UserError, match=r"fp8 needs a Hopper GPU.*MI300X is none"):
        layouts(run, world=8, gpu="MI300X")


def test_fp8_changes_the_estimate_and_says_where_it_loses() -> None:
    wide = config(d_model=8192, n_heads=64, n_layers=8, context_length=4096)
    fp8 = layouts(wide.model_copy(update={"precision": "fp8"}), world=8, gpu="H100")
    bf16 = layouts(wide, world=8, gpu="H100")
    same = next(e for e in bf16.ranked if e.layout == fp8.best.layout)
    assert fp8.best.time.matrices != same.time.matrices and fp8.best.time.attention == same.time.attention
    slower = fp8.best.time.total > bf16.best.time.total
    assert slower == any("--set precision=bf16" in note for note in fp8.notes)


def test_fp8_is_faster_where_casts_are_fused() -> None:
    shape = Shape(8192, 28672, 80, 64, 8, 128, V, T, gated=True)
    way = Way(data=8, zero=3, micro_batch=8, cast_bytes=6)
    bf16 = step_time(shape, way, GPUS["H100-SXM"], 10**9)
    fp8 = step_time(shape, dataclasses.replace(way, precision="fp8"), GPUS["H100-SXM"], 10**9)
    assert 1.2 < bf16.matrices / fp8.matrices < 2


def test_a_world_that_does_not_divide_the_batch_is_told_what_to_change() -> None:
    run = config()  # 256 sequences
    with pytest.raises(UserError) as told:
        _ = layouts(run, world=3, gpu="H100").best
    message = str(told.value)
    assert "256 sequences per step" in message and "take 2 or 4 GPUs" in message
    assert "--set batch.tokens_per_step=261120 or 264192" in message and "Use more GPUs" not in message
    found = layouts(run, world=24, gpu="H100")  # tensor 3 or 6 do not fit 8 heads, and data 24 does not divide
    assert not found.ranked
    assert layouts(run, world=4, gpu="H100").notes == ()


def test_a_step_is_whole_sequences() -> None:
    run = config()
    odd = run.model_copy(update={"batch": run.batch.model_copy(update={"tokens_per_step": 1000})})
    with pytest.raises(UserError, match=r"1000 is not a multiple of model.context_length 1024: use 1024"):
        layouts(odd, world=1, gpu="H100")


@pytest.mark.parametrize("context", [4096, 4095])
def test_an_odd_vocabulary_is_told_the_setting_and_what_it_gains(context: int) -> None:
    """16 GPUs share 4 sequences: four work on each, as sequence ranks or, with an odd context, as tensor ranks."""
    odd = config(vocab_size=8191, d_model=1024, context_length=context)
    odd = odd.model_copy(update={"batch": odd.batch.model_copy(update={"tokens_per_step": 4 * context})})
    found = layouts(odd, world=16, gpu="A100")
    (note,) = [note for note in found.notes if "vocab_multiple_of" in note]
    assert "8191 vocabulary rows" in note and "--set model.vocab_multiple_of=128 makes them 8192" in note
    model = odd.model.model_copy(update={"vocab_multiple_of": 128})
    padded = layouts(odd.model_copy(update={"model": model}), world=16, gpu="A100")
    assert padded.ranked and not any("vocab_multiple_of" in note for note in padded.notes)
    assert bool(found.ranked) == (context == 4096)
    assert (f"reaches {padded.best.mfu:.0%} MFU" if found.ranked else f"{padded.best.layout} fits") in note
    if not found.ranked:
        with pytest.raises(UserError, match="vocab_multiple_of=128"):
            _ = found.best


def test_a_gpu_that_was_not_compared_is_said_to_be() -> None:
    assert any("compared" in note for note in layouts(config(), world=2, gpu="L40S").notes)
    assert not layouts(config(), world=2, gpu="H100").notes


def test_a_full_gpu_is_said_to_be_and_what_leaves_more() -> None:
    run = config(d_model=4096, n_heads=32, n_layers=32, context_length=4096)
    run = run.model_copy(update={"batch": run.batch.model_copy(update={"tokens_per_step": 2**20})})
    for world in (8, 16, 32, 64):
        found = layouts(run, world=world, gpu="A100")
        full = found.best.memory["total"] > 0.95 * found.gpu.usable
        assert full == any("nearly fills" in note for note in found.notes)


def test_tensor_groups_across_nodes_are_slower() -> None:
    """4 links of 50 GB/s out of a node, at 80 %, beside NVLink's 450 GB/s at 75 %."""
    shape = Shape(4096, 16384, 32, 32, 32, 128, V, T, gated=False)
    inside = step_time(shape, Way(data=1, tensor=8), GPUS["H100-SXM"], 7 * 10**9)
    across = step_time(shape, Way(data=1, tensor=8, ranks_per_node=4), GPUS["H100-SXM"], 7 * 10**9)
    assert 2 * inside.tensor < across.tensor < 3 * inside.tensor and across.matrices == inside.matrices


def test_a_ring_over_nodes_uses_all_their_links() -> None:
    """Eight ranks of a node share a ring that enters the node once; a ring of one rank a node has one link."""
    shape = Shape(4096, 16384, 32, 32, 32, 128, V, T, gated=False)
    gpu = GPUS["A100-SXM-80GB"]
    whole, alone = (
        Traffic(shape, Way(data=64, tensor=tensor, zero=3), gpu, RATES).link(tensor, 64) for tensor in (1, 8)
    )
    assert whole == pytest.approx(8 * alone) and alone == pytest.approx(0.8 * gpu.link_network)


def test_stage_3_hides_gathering_behind_compute() -> None:
    shape = Shape(4096, 16384, 32, 32, 32, 128, V, T, gated=False)
    way = Way(data=128, zero=3, micro_batch=8)
    bare = step_time(shape, way, GPUS["H100-SXM"], 7 * 10**9)
    hidden = step_time(shape, dataclasses.replace(way, overlap=True), GPUS["H100-SXM"], 7 * 10**9)
    assert hidden.data == pytest.approx(RATES.contention * bare.data)


def test_thin_products_are_slower_than_wide_ones() -> None:
    """FLOP/s of products grow with each side, and stay below the share of the peak."""
    compute = Compute(Shape(1, 1, 1, 1, 1, 1, V, T, gated=False), Way(data=1), GPUS["H100-SXM"], RATES)
    rates = [2 * n**3 / compute.product(n, n, n) for n in (256, 1024, 4096, 16384)]
    assert rates == sorted(rates) and rates[-1] < RATES.hopper * 989e12


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
@given(st.sampled_from([0, 1, 2, 3]), st.sampled_from([1, 2, 4]), st.sampled_from([2, 4, 16]))
def test_a_higher_stage_never_holds_more(stage: int, tensor: int, data: int) -> None:
    """With one rank it does: stage 1 keeps bf16 parameters beside the master copy, stage 0 none."""
    model = config().model

    def held(zero: int) -> int:
        parallel = ParallelConfig(zero_stage=zero, tensor=tensor)  # type: ignore[arg-type]
        parts = rank_memory(model, parallel, data_parallel=data, micro_batch=1, bytes_per_value=2, gpu=True).by_part()
        return parts["parameters"] + parts["gradients"] + parts["widening"] + parts["optimizer"]

    if stage:
        assert held(stage) <= held(stage - 1)


def test_all_reduce_is_the_ring() -> None:
    assert all_reduce(8e9, 4, 1e9) == pytest.approx(12.0, rel=1e-4)


def plan_at(*arguments: str) -> Result:
    """Run `escala plan` on a small model on a machine without GPUs."""
    return CliRunner().invoke(plan, ["configs/run/7b.yaml", "--vocab", "50304", *arguments])


def test_ranks_that_this_machine_cannot_hold_are_said_to_be_cpu_ranks() -> None:
    told = plan_at("--world", "64")
    assert "ZeRO 1, fp32" in told.stdout
    assert "planned for 64 CPU ranks" in told.stderr and "--gpu NAME" in told.stderr and "device=cuda" in told.stderr


@pytest.mark.parametrize("setting", ["device=cuda", "precision=fp8"])
def test_gpus_are_planned_where_the_configuration_asks_for_them(setting: str) -> None:
    told = plan_at("--world", "64", "--set", setting)
    assert f"ZeRO 1, {'fp8' if 'fp8' in setting else 'bf16'}" in told.stdout and not told.stderr
    assert "expected time" not in told.stdout, "nobody said on which GPUs"


def test_a_named_gpu_is_planned_for() -> None:
    told = plan_at("--world", "64", "--gpu", "h100", "--json")
    values = json.loads(told.stdout)
    assert values["gpu"] == "H100-SXM" and values["notes"] == []
    assert values["layouts"][0]["mfu"] > 0.3
    wrong = plan_at("--world", "48", "--gpu", "h100")
    assert wrong.exit_code != 0 and "take 32 or 64 GPUs" in str(wrong.exception)


@pytest.mark.slow
def test_a_layout_of_a_thousand_ranks_is_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real model, spread by the real code over fake ranks, holds exactly the parameters that were planned."""
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
