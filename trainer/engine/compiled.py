"""How often torch.compile compiled: a count that goes on growing in training is time that does not train."""

from __future__ import annotations

import sys


def compiled_graphs() -> dict[str, int]:
    """Return `compiled_graphs`, the graphs of this process so far; nothing where nothing was ever compiled."""
    dynamo = sys.modules.get("torch._dynamo.utils")  # never imported for the count alone
    graphs = int(dynamo.counters["stats"]["unique_graphs"]) if dynamo is not None else 0
    return {"compiled_graphs": graphs} if graphs else {}
