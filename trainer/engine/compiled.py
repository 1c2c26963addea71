"""Compiled parts of a model, and how often torch.compile made one: a count that goes on growing is time lost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from trainer.models.common.head import Head
from trainer.models.common.kernels import HAS_TRITON
from trainer.models.interface import LanguageModel
from trainer.plan.compiling import Mode

GRAPHS = 64  # of one block, for its kinds and shapes; torch's own limit is 8


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile finds what it makes a GPU's kernels with, on every rank. A collective call."""
    found = torch.tensor(int(HAS_TRITON), device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    if not int(found) and dist.get_rank() == 0:
        print("warning: blocks are not compiled: parallel.compile is auto, and a rank has no triton", file=sys.stderr)
    return bool(int(found))


def compile_parts(model: LanguageModel, mode: Mode) -> None:
    """Compile the forward pass of each block and the loss, or of the model, in place, on this rank as on all.

    What a library hooks onto a module, such as FSDP's gathering, runs around it and is not compiled.

    Beyond its limit torch runs a part uncompiled, with a mere warning. Where one rank alone does, its gradients come
    in another order than those of its peers, and DeepSpeed, which sums them in the order in which they come, trains on
    wrong ones. So the limit is higher here, and meeting it raises.
    """
    from torch._dynamo import config  # only where something is compiled: it takes seconds to import

    config.recompile_limit, config.fail_on_recompile_limit_hit = GRAPHS, True
    parts: list[Any] = list(model.blocks) if mode == "blocks" else [model]
    for part in parts:
        part.forward = _as_graphs(part.forward) if mode == "graphs" else torch.compile(part.forward)
    if mode == "blocks" and isinstance(model.head, Head):  # it reads and writes a third of the bytes
        model.head.losses = torch.compile(model.head.losses)  # type: ignore[method-assign]


def _as_graphs(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward pass that is replayed as CUDA graphs.

    A replay writes where the one before it wrote, so what a call returns is a copy.
    """
    compiled = torch.compile(forward, mode="reduce-overhead", dynamic=False)

    def replay(*arguments: Any, **keywords: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return compiled(*arguments, **keywords).clone()

    return replay


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run everything as it was written: compiled code calls no hooks inside of it."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def compiled_graphs() -> dict[str, int]:
    """Return `compiled_graphs`, the graphs of this process so far; nothing where nothing was ever compiled."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # never imported for the count alone
    graphs = int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0
    return {"compiled_graphs": graphs} if graphs else {}
