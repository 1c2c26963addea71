"""Compiled blocks, and how often torch.compile made one: a count that goes on growing is time that does not train."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec

from torch import nn

GRAPHS = 64  # of one block, for its kinds and shapes; torch's own limit is 8


def can_compile() -> bool:
    """Return whether torch.compile finds what it makes a GPU's kernels with, and say so where it does not."""
    if find_spec("triton") is not None:
        return True
    print("warning: blocks are not compiled: parallel.compile is auto, and triton is not installed", file=sys.stderr)
    return False


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
