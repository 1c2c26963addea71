"""Batch arithmetic and learning-rate schedules are pure; their properties hold for any numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.launch.test_sweep_cells import RUN
from trainer.config.load import run_from_values
from trainer.config.optim import OptimConfig, ScheduleConfig
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.data.order.ramp import Ramp
from trainer.plan.batch import plan_batch
from trainer.plan.learning_rate import decay_share, lr_share, peak_lr
from trainer.plan.plan import Plan, make_plan


@given(st.integers(1, 64), st.integers(1, 2048), st.integers(1, 64))
def test_a_batch_that_divides_is_divided_without_rest(data_parallel: int, context_length: int, per_rank: int):
    plan = plan_batch(data_parallel * context_length * per_rank, context_length, data_parallel, None)
    assert plan.micro_batch * plan.accumulation == plan.sequences_per_rank == per_rank
    assert plan.sequences_per_step == per_rank * data_parallel
    assert plan.micro_batch == 1 or plan.micro_batch * context_length <= 16_384


@given(st.integers(1, 100_000), st.integers(1, 512), st.integers(1, 16))
def test_a_batch_divides_or_is_refused_with_a_batch_that_divides(tokens: int, context_length: int, data_parallel: int):
    try:
        plan = plan_batch(tokens, context_length, data_parallel, None)
    except UserError as error:
        advised = int(str(error).rstrip().split()[-1])
        assert advised % context_length == 0
        return
    assert plan.sequences_per_step * context_length == tokens


KINDS = ["constant", "linear", "cosine", "inverse_sqrt", "wsd"]


@given(st.sampled_from(KINDS), st.sampled_from(["linear", "1-sqrt"]), st.integers(5, 500), st.integers(0, 100))
def test_schedules_rise_then_never_rise_again(kind: str, cooldown: str, total: int, warmup_percent: int):
    warmup = total * warmup_percent // 200
    values = {"kind": kind, "warmup": f"{warmup} steps"}
    values |= {"decay": "30%", "cooldown": cooldown} if kind == "wsd" else {}
    schedule = ScheduleConfig.model_validate(values)
    shares = [lr_share(schedule, step, total_steps=total, tokens_per_step=1) for step in range(total)]
    assert all(0 < share <= 1 + 1e-12 or schedule.final_ratio == 0 for share in shares)
    assert all(a < b for a, b in pairwise(shares[:warmup]))
    assert all(a >= b - 1e-12 for a, b in pairwise(shares[warmup:]))


@pytest.mark.parametrize("kind", ["linear", "cosine", "wsd"])
def test_decaying_schedules_end_at_their_final_ratio(kind: str):
    schedule = ScheduleConfig.model_validate({"kind": kind, "warmup": "10 steps", "final_ratio": 0.05})
    assert lr_share(schedule, 99, total_steps=100, tokens_per_step=1) == pytest.approx(0.05)


def test_known_values():
    wsd = ScheduleConfig.model_validate({"kind": "wsd", "warmup": "0 steps", "decay": "1000 tokens", "final_ratio": 0})
    assert lr_share(wsd, 89, total_steps=100, tokens_per_step=100) == 1.0
    assert lr_share(wsd, 94, total_steps=100, tokens_per_step=100) == pytest.approx(0.5)
    root = wsd.model_copy(update={"cooldown": "1-sqrt"})
    assert lr_share(root, 89, total_steps=100, tokens_per_step=100) == 1.0
    assert lr_share(root, 92, total_steps=100, tokens_per_step=100) == pytest.approx(1 - 0.3**0.5)
    assert lr_share(root, 99, total_steps=100, tokens_per_step=100) == pytest.approx(0)
    inverse = ScheduleConfig.model_validate({"kind": "inverse_sqrt", "warmup": "25 steps"})
    assert lr_share(inverse, 99, total_steps=100, tokens_per_step=1) == pytest.approx(0.5)


@pytest.mark.parametrize(("parameters", "gpt3"), [(125e6, 6e-4), (1.3e9, 2e-4), (6.7e9, 1.2e-4), (175e9, 0.6e-4)])
def test_the_learning_rate_rule_passes_near_gpt3(parameters: float, gpt3: float):
    assert 0.5 < peak_lr(OptimConfig(), int(parameters), 1, 1) / gpt3 < 2


def test_a_learning_rate_that_is_given_is_taken():
    assert peak_lr(OptimConfig(lr=0.3), 64, 1, 1) == 0.3


def test_a_factor_multiplies_the_rate_and_the_rule():
    rule = OptimConfig.model_validate({})
    twice = OptimConfig.model_validate({"lr_factor": 2})
    assert peak_lr(twice, 10**6, 1, 1) == pytest.approx(2 * peak_lr(rule, 10**6, 1, 1))
    assert peak_lr(OptimConfig.model_validate({"lr": 0.01, "lr_factor": 0.5}), 10**6, 1, 1) == pytest.approx(0.005)
    assert "lr_factor" not in rule.model_dump() and "cooldown" not in ScheduleConfig().model_dump()


def test_a_rate_falls_with_the_length_of_the_run_where_it_is_said() -> None:
    optim = OptimConfig.model_validate({"lr": 0.01, "lr_horizon": {"tokens": "1M", "exponent": 0.5}})
    assert peak_lr(optim, 10**6, 10**6, 1) == 0.01
    assert peak_lr(optim, 10**6, 4 * 10**6, 1) == pytest.approx(0.005)


@given(st.floats(0, 1), st.booleans())
def test_weight_decay_follows_the_rate_or_stays(share: float, follows: bool) -> None:
    """What an optimizer takes off a weight is the rate times decay times its share; a rate of 0 takes nothing off."""
    optim = OptimConfig(decay_follows_lr=follows)
    taken = share * decay_share(optim, share)
    assert taken == pytest.approx(share if follows or share < 1e-9 else 1.0)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 20_000), st.integers(0, 3000), st.integers(1, 200_000))
def test_a_batch_that_rises_is_a_pure_function_of_the_step(
    doublings: int, unit: int, over: int, step: int, sequences: int
):
    ramp = Ramp.doubling(unit * 2**doublings, doublings, over)
    sizes = [ramp.at(k) for k in range(ramp.steps + 2)]
    assert sizes[0] == unit and sizes[-1] == unit * 2**doublings and sizes == sorted(sizes)
    assert len(ramp.stages) == doublings
    assert ramp.before(step + 1) - ramp.before(step) == ramp.at(step)
    assert ramp.before(min(step, len(sizes))) == sum(sizes[:step])
    assert over <= ramp.before(ramp.steps) < over + sum(batch for batch, _ in ramp.stages) + doublings * sizes[-1]
    steps = ramp.steps_for(sequences)
    assert ramp.before(steps - 1) < sequences <= ramp.before(steps)


def rising(**changes: Any) -> RunConfig:
    batch = {"tokens_per_step": 1024, "warmup": {"doublings": 2, "tokens": 8192}, **changes.pop("batch", {})}
    values = {**RUN, "tokens": 40_960, **changes, "batch": batch}
    return run_from_values({key: value for key, value in values.items() if value is not None}, "t")


def test_the_plan_counts_the_steps_of_a_batch_that_rises():
    config = rising()
    plan = make_plan(with_vocabulary(config), world=2)
    # 8192 tokens are 128 sequences: 64 of 4 a step, the next 64 of 8, then 16
    assert plan.batch_warmup == ((4, 16), (8, 8)) and plan.sequences_per_step == 16
    assert plan.steps == 16 + 8 + 32 and plan.tokens == 40_960
    assert plan.flops == plan.flops_per_token["total"] * 40_960
    assert (plan.tokens_before(16), plan.tokens_before(25), plan.tokens_at(20)) == (4096, 8192 + 1024, 512)
    assert Plan.from_json(plan.to_json()) == plan
    flat = make_plan(with_vocabulary(rising(batch={"warmup": None})), world=2)
    assert "batch_warmup" not in flat.to_json() and flat.steps == 40
    assert plan.config_hash != flat.config_hash and plan.lr == flat.lr
    by_steps = make_plan(with_vocabulary(rising(tokens=None, steps=30)), world=2)
    assert by_steps.tokens == 8192 + 6 * 1024


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": {"tokens_per_step": 1024 + 64}}, "take a multiple of 256, or fewer doublings"),
        ({"tokens": 8192}, "batch.warmup.tokens 8192 is not below the 8192 tokens of the run"),
        ({"data": {"order": "streams"}}, "changes how many lanes a step has"),
        ({"schedule": {"warmup": "2k tokens"}}, "schedule.warmup in tokens would count whole batches"),
        ({"schedule": {"kind": "wsd", "decay": "2k tokens"}}, "schedule.decay in tokens would count whole batches"),
        ({"evaluation": {"every": "8k tokens"}}, "evaluation.every in tokens would count whole batches"),
        (
            {"checkpoint": {"every": "4k tokens"}, "tracking": {"log_every": "1k tokens"}},
            "checkpoint.every and tracking.log_every in tokens would count",
        ),
    ],
)
def test_what_does_not_go_with_a_batch_that_rises_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        rising(**changes)


def test_ranks_and_skipped_steps_that_a_batch_that_rises_cannot_have_are_refused():
    with pytest.raises(UserError, match="steps of 4 sequences, which 8 data-parallel ranks cannot share"):
        make_plan(with_vocabulary(rising()), world=8)
    with pytest.raises(
        UserError, match=r"skip_steps begins at 20, and batch\.warmup has steps of other sizes before step 24"
    ):
        make_plan(with_vocabulary(rising(skip_steps=("500:510", "20:22"))), world=2)
    assert make_plan(with_vocabulary(rising(skip_steps=("24:26",))), world=2)


def with_vocabulary(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": 512})})
