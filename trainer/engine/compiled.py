"""Whether torch.compile can, and how often it did: a count that goes on growing is time that does not train."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def can_compile() -> bool:
    """Return whether torch.compile finds what it makes a GPU's kernels with, and say so where it does not."""
    if find_spec("triton") is not None:
        return True
    print("warning: blocks are not compiled: parallel.compile is auto, and triton is not installed", file=sys.stderr)
    return False


def compiled_graphs() -> dict[str, int]:
    """Return `compiled_graphs`, the graphs of this process so far; nothing where nothing was ever compiled."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # never imported for the count alone
    graphs = int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0
    return {"compiled_graphs": graphs} if graphs else {}
