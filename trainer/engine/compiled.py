"""Compiled blocks, and how often torch.compile made one: a count that goes on growing is time that does not train."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from trainer.models.common.kernels import HAS_TRITON

GRAPHS = 64  # of one block, for its kinds and shapes; torch's own limit is 8


def can_compile(device: torch.device) -> bool:
    """Return whether torch.compile finds what it makes a GPU's kernels with, on every rank. A collective call."""
    found = torch.tensor(int(HAS_TRITON), device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MIN)
    if not int(found) and dist.get_rank() == 0:
        print("warning: blocks are not compiled: parallel.compile is auto, and a rank has no triton", file=sys.stderr)
    return bool(int(found))


def compile_blocks(blocks: Iterable[nn.Module]) -> None:
    """Compile each block, on this rank as on all.

    Beyond its limit torch runs a block uncompiled, with a mere warning. Where one rank alone does, its gradients come
    in another order than those of its peers, and DeepSpeed, which sums them in the order in which they come, trains on
    wrong ones. So the limit is higher here, and meeting it raises.
    """
    from torch._dynamo import config  # only where something is compiled: it takes seconds to import

    config.recompile_limit, config.fail_on_recompile_limit_hit = GRAPHS, True
    for block in blocks:
        block.compile()


def compiled_graphs() -> dict[str, int]:
    """Return `compiled_graphs`, the graphs of this process so far; nothing where nothing was ever compiled."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # never imported for the count alone
    graphs = int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0
    return {"compiled_graphs": graphs} if graphs else {}
