"""No step has the host wait for the device: on any engine, nothing in it reads a tensor back or synchronises."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.dist.pool import RankPool
from tests.dist.runs import MicroBatch, global_batch, tiny
from tests.dist.test_engine import batch_of, open_engine
from trainer.config.run import RunConfig

READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero", "__contains__"}
OPERATORS = {"_local_scalar_dense", "is_nonzero", "nonzero", "_unique2", "masked_select", "equal"}


class Calls(TorchFunctionMode):
    """Counts what reads a tensor back by a method. Where compiled and in C++ the operators below are what counts."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS and args and isinstance(args[0], torch.Tensor) and not self._on_host(args[0]):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _on_host(tensor: torch.Tensor) -> bool:
        """Whether it is a batch, which lies in host memory beside a GPU too."""
        return getattr(tensor, "of_the_batch", False)


class Operators(TorchDispatchMode):
    """Counts the operators that wait for a device, and copies that go to another one and are waited for."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        boolean = [t for t in tree_leaves(args[1:2]) if isinstance(t, torch.Tensor) and t.dtype == torch.bool]
        if name in OPERATORS or (name == "index" and boolean):
            self.found[name] += 1
        out = func(*args, **(kwargs or {}))
        copies = name in ("_to_copy", "copy_") and not (kwargs or {}).get("non_blocking", len(args) > 2 and args[2])
        if copies and len({t.device for t in tree_leaves((args, out)) if isinstance(t, torch.Tensor)}) > 1:
            self.found["copy"] += 1
        return out


def counted(run: Any) -> dict[str, int]:
    found: Counter[str] = Counter()
    with Calls(found), Operators(found):
        run()
    return dict(found)


def marked(batch: MicroBatch) -> MicroBatch:
    for tensor in (batch.inputs, batch.targets, batch.weights, batch.documents):
        if tensor is not None:
            tensor.of_the_batch = True  # type: ignore[attr-defined]
    return batch


def take(engine: Any, batches: list[MicroBatch], limits: Any, launched: list[Any]) -> None:
    launched.append(engine.launch_step(batches, 1e-3, limits))


def waits(config: RunConfig) -> dict[str, Any]:
    """Return what waits in a step, in one with limits, in reading its outcome, in evaluating, in the accelerator."""
    from trainer.guard.spikes import Limits

    engine = open_engine(config)
    synchronised = Counter[str]()
    if config.parallel.engine == "deepspeed":
        from deepspeed.accelerator import get_accelerator

        accelerator = get_accelerator()
        accelerator.synchronize = lambda device=None: synchronised.update(["synchronize"])
    try:
        found: list[dict[str, int]] = []
        for step in range(4):  # the first ones check the ranks' tokens, and start timers
            batches = [marked(batch) for batch in batch_of(engine, step)]
            limits = Limits() if step == 3 else None
            if step == 2:
                synchronised.clear()
            launched: list[Any] = []
            found.append(counted(partial(take, engine, batches, limits, launched)))
            launched[0].read()
        plain, limited = found[2:]
        reading = counted(launched[0].read)
        losses = counted(lambda: engine.token_losses(marked(global_batch(0))))
        return {"step": plain, "limited": limited, "reading": reading, "losses": losses, "device": dict(synchronised)}
    finally:
        if config.parallel.engine == "deepspeed":
            del accelerator.synchronize
        engine.close()


@pytest.mark.parametrize(
    ("engine", "zero_stage", "precision"),
    [
        *(("deepspeed", stage, "fp32") for stage in (0, 1, 2, 3)),
        *(("deepspeed", stage, "bf16") for stage in (1, 2)),
        *(("fsdp", stage, "fp32") for stage in (1, 3)),
    ],
)
def test_a_step_reads_nothing_back(ranks: RankPool, engine: str, zero_stage: int, precision: str) -> None:
    config = tiny(parallel={"engine": engine, "zero_stage": zero_stage}, precision=precision)
    for found in ranks.run(2, waits, config):
        assert found["step"] == {} and found["limited"] == {} and found["losses"] == {}
        assert found["device"] == {}, "DeepSpeed's timers wait for the device"
        assert found["reading"] == {"tolist": 1}, "once, for all that a step comes to"


def test_the_counters_see_what_waits() -> None:
    x = torch.ones(3)
    cases = {
        "item": lambda: x[0].item(),
        "tolist": lambda: x.tolist(),
        "cpu": lambda: x.cpu(),
        "__bool__": lambda: bool(x[0]),
        "__float__": lambda: float(x[0]),
        "index": lambda: x[x > 0],
    }
    for name, case in cases.items():
        assert counted(case).get(name) == 1, name
    assert counted(lambda: torch.ones(()).isfinite().item())["_local_scalar_dense"] == 1
    assert counted(lambda: x.to("meta"))["copy"] == 1 and counted(lambda: x.to("meta", non_blocking=True)) == {}


def evaluation_waits(config: RunConfig) -> dict[str, int]:
    from trainer.evaluation.perplexity import evaluate

    engine = open_engine(config)
    batches: Any = [marked(batch_of(engine, step)[0]) for step in range(3)]
    found = counted(
        lambda: evaluate(engine, engine.mesh, batches, name="held_out", position_buckets=4, text_bytes=None)
    )
    engine.close()
    return found


@pytest.mark.parametrize("engine", ["deepspeed", "fsdp"])
def test_an_evaluation_crosses_once(ranks: RankPool, engine: str) -> None:
    """Three batches, one copy; what is read of that copy lies on the host."""
    for found in ranks.run(2, evaluation_waits, tiny(parallel={"engine": engine})):
        assert found["cpu"] == 1
