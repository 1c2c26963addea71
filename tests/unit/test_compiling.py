"""What `parallel.compile` means: what is compiled, what the plan says of it, and what is refused by name."""

from __future__ import annotations

import json
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.dist.runs import global_batch, tiny
from trainer.contract.errors import UserError
from trainer.engine.compiled import GRAPHS, compile_parts, uncompiled
from trainer.models.build import build_model
from trainer.models.mixers.registry import MIXERS
from trainer.plan.compiling import compile_mode, why_not_compiled
from trainer.plan.plan import Plan, make_plan

WAYS = [(True, "blocks"), (False, None), ("blocks", "blocks"), ("model", "model"), ("graphs", "graphs")]


def test_auto_compiles_on_gpus_alone_and_the_plan_says_so() -> None:
    config = tiny(device="auto")
    assert config.parallel.compile == "auto"
    assert compile_mode(config, gpu=True) == "blocks" and compile_mode(config, gpu=False) is None
    assert make_plan(config, world=2, gpu=True).compiled == "blocks"
    assert make_plan(config, world=2, gpu=False).compiled is None


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize(("asked", "mode"), WAYS)
def test_what_is_asked_for_is_done(asked: Any, mode: str | None, gpu: bool) -> None:
    assert compile_mode(tiny(device="auto", parallel={"compile": asked}), gpu=gpu) == mode


@pytest.mark.parametrize(("flag", "mode"), [(True, "blocks"), (False, None)])
def test_a_plan_that_says_it_with_a_flag_is_still_read(flag: bool, mode: str | None) -> None:
    plan = make_plan(tiny(device="auto"), world=2, gpu=True)
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(json.dumps({**json.loads(plan.to_json()), "compiled": flag})).compiled == mode


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"parallel": {"zero_stage": 3}}, "zero_stage 3"),
        ({"parallel": {"offload": "optimizer"}}, "offload"),
        ({"model": {"dropout": 0.1}}, "dropout"),
        ({"tracking": {"norms_every": "5 steps", "activations": True}}, "tracking.activations"),
    ],
)
def test_auto_leaves_alone_what_was_never_compared(sections: Any, reason: str) -> None:
    config = tiny(**sections)
    assert reason in str(why_not_compiled(config)) and compile_mode(config, gpu=True) is None


def test_auto_compiles_what_fsdp_gathers_by_blocks_and_what_multiplies_in_fp8() -> None:
    assert compile_mode(tiny(device="auto", parallel={"engine": "fsdp", "zero_stage": 3}), gpu=True) == "blocks"
    assert compile_mode(tiny(device="auto", precision="fp8"), gpu=True) == "blocks"


@pytest.mark.parametrize(
    ("parallel", "sections", "reason"),
    [
        ({"compile": True, "zero_stage": 3}, {}, r"compile gains nothing with zero_stage 3.*engine to fsdp"),
        ({"compile": "model", "zero_stage": 3, "engine": "fsdp"}, {}, "compile model has the whole model gathered"),
        ({"compile": "graphs", "offload": "optimizer"}, {"device": "auto"}, "compared with offload optimizer"),
        ({"compile": "graphs"}, {"device": "cpu"}, "graphs records CUDA graphs, and there is no GPU"),
        (
            {"compile": "blocks"},
            {"tracking": {"norms_every": "5 steps", "activations": True}},
            "tracking.activations listens to blocks",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused_when_it_is_read(parallel: Any, sections: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        tiny(parallel=parallel, **sections)


@pytest.mark.parametrize(
    ("world", "gpu", "parallel", "micro_batch", "reason"),
    [
        (1, False, {}, None, "there is no GPU: set it to model or blocks"),
        (1, True, {}, 4, "needs one micro-batch a step, there are 2"),
        (2, True, {"tensor": 2}, None, "never compared on 2 tensor and 1 sequence ranks"),
        (2, True, {"engine": "fsdp"}, None, "fsdp gathers them anew each step on 2 replicas"),
    ],
)
def test_graphs_are_refused_where_a_layout_moves_what_they_read(
    world: int, gpu: bool, parallel: Any, micro_batch: int | None, reason: str
) -> None:
    batch = {} if micro_batch is None else {"micro_batch": micro_batch}
    config = tiny(device="auto", parallel={"compile": "graphs", **parallel}, batch=batch)
    with pytest.raises(UserError, match=reason):
        make_plan(config, world=world, gpu=gpu)
    assert make_plan(tiny(device="auto", parallel={"compile": "graphs"}), world=2, gpu=True).compiled == "graphs"


def test_graphs_are_asked_of_torch_and_what_a_replay_returns_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is here: torch is asked for CUDA graphs, told where each step begins, and its memory is not handed on."""
    asked: list[dict[str, Any]] = []
    marks: list[None] = []
    kept = torch.ones(2)

    def compiled(_: object, **options: Any) -> Any:
        asked.append(options)
        return lambda *_: kept

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(None))
    model: Any = nn.Linear(2, 2)
    compile_parts(model, "graphs")
    first = model(torch.ones(1, 2))
    model(torch.ones(1, 2))
    assert asked == [{"mode": "reduce-overhead", "dynamic": False}] and len(marks) == 2
    assert torch.equal(first, kept) and first.data_ptr() != kept.data_ptr()


@pytest.mark.parametrize("name", [*MIXERS, "hybrid"])
def test_a_whole_model_computes_the_same_as_one_program(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as torch.compile does it; what an inductor makes of that is compared in tests/dist."""
    heads = {"n_heads": 4} if name == "hybrid" or "n_heads" in MIXERS[name].cost_class.settings else {"n_heads": None}
    kind: Any = {"pattern": ["gated_delta", "attention"]} if name == "hybrid" else {"mixer": name, "n_layers": 1}
    config = tiny(model={**kind, **heads}).model
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager_decomp_partition"))
    torch._dynamo.reset()
    batch, found = global_batch(0), []
    for whole in (False, True):
        model = build_model(config, 0)
        if whole:
            compile_parts(model, "model")
        loss = model(batch.inputs, batch.targets).mean()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
    for eager, traced in zip(*found, strict=True):
        assert eager is not None and traced is not None
        torch.testing.assert_close(traced, eager, rtol=2e-5, atol=2e-6)
    torch._dynamo.reset()


class Traced(nn.Module):
    """Compiled as far as torch._dynamo goes, whose limits are asked here."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x + 1)


def test_a_block_that_is_compiled_too_often_ends_the_run_and_is_not_run_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One rank that ran a block uncompiled beside a compiled peer had gradients summed in another order, and wrong."""
    from torch._dynamo import config, reset
    from torch._dynamo.exc import FailOnRecompileLimitHit

    reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", dynamic=False))
    with config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        block = Traced()
        model: Any = SimpleNamespace(blocks=[block], head=None)
        compile_parts(model, "blocks")
        assert config.recompile_limit == GRAPHS
        for rows in range(1, 12):  # more than torch's own limit
            assert block(torch.ones(rows, 2)).shape == (rows, 2)
        config.recompile_limit = 12
        with pytest.raises(FailOnRecompileLimitHit):
            for rows in range(12, 15):
                block(torch.ones(rows, 2))
    reset()


def test_hooks_inside_of_what_is_compiled_are_called_where_it_runs_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """`trace_step` looks for the first module that makes no number, and compiled code calls no hook of its parts."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    block, heard = Traced(), []
    model: Any = SimpleNamespace(blocks=[block], head=None)
    compile_parts(model, "blocks")
    block(torch.ones(2, 2))
    block.inner.register_forward_hook(lambda *_: heard.append(None))
    with uncompiled():
        block(torch.ones(2, 2))
    assert heard == [None]
    torch._dynamo.reset()
