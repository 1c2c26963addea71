"""The planner's layouts against the plan and their own estimate, and what users are told."""

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
from launch.planner.expected import step_on_gpus
from launch.planner.layouts import Layouts, layouts, with_parallel
from launch.planner.table import layouts_table
from launch.planner.verify import verify, with_layout
from trainer.config.load import run_from_values, set_values
from trainer.config.parallel import ParallelConfig
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.plan.batch import BatchPlan
from trainer.plan.counting import count_parameters
from trainer.plan.gpus import ALIASES, GPUS, find_gpu
from trainer.plan.plan import make_plan


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
    plain = run_from_values(set_values(config().model_dump(mode="json"), ["parallel.compile=false"]), "test")
    eager, chosen = layouts(plain, world=8, gpu="H100"), layouts(config(), world=8, gpu="H100")
    same, auto = (next(e for e in all_.ranked if e.layout == found.best.layout) for all_ in (eager, chosen))
    assert auto.time == (found.best.time if found.best.layout.zero_stage < 2 else same.time), "compile: auto"
    assert same.time.elementwise > found.best.time.elementwise and same.time.matrices == found.best.time.matrices


def test_an_unknown_gpu_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'H100-SXM'"):
        find_gpu("H100-SMX")
    with pytest.raises(UserError, match="did you mean 'H100'"):
        find_gpu("H100-80GB")  # nearer by letters: A100-80GB
    with pytest.raises(UserError, match="unknown GPU 'A100-SXM': say A100-SXM-40GB or A100-SXM-80GB"):
        find_gpu("A100-SXM")


def test_one_table_for_all_commands() -> None:
    from launch.scaling.questions.next_run import flops_of_cluster

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


def test_a_vocabulary_that_no_setting_helps_is_not_named() -> None:
    """8192 rows are a multiple of 128 already; five ranks cannot split them."""
    found = layouts(config(vocab_size=8192, d_model=640, n_heads=10, d_ff=2560), world=10, gpu="H100")
    assert any("vocabulary rows" in refused.reason for refused in found.impossible)
    assert not any("vocab_multiple_of" in note for note in found.notes)


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


@pytest.mark.parametrize(
    ("mode", "says"), [("true", "blocks"), ("blocks", "blocks"), ("model", "model"), ("graphs", "graphs")]
)
def test_the_plan_says_what_is_compiled(mode: str, says: str) -> None:
    of = ("--set", "parallel.recompute=none", "--set", f"parallel.compile={mode}", "--set", "device=cuda")
    told = plan_at("--world", "1024", *of)
    assert f"bf16, compiled {says}" in told.stdout, told
    refused = plan_at("--world", "64", *of)
    if mode == "graphs":
        assert "graphs needs one micro-batch a step, there are" in str(refused.exception)
    else:
        assert f"bf16, compiled {says}" in refused.stdout


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
