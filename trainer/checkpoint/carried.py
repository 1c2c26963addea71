"""The states that lanes carry from step to step, in a checkpoint: each lane's once, whatever ranks read the lanes.

They lie in the file of the rank that read the lanes, as tensors `carried/<layer>/<name>` whose first dimension are its
lanes. The manifest's state says how lanes were shared out:

    "carried": {"lanes": 16, "data": 2, "tensor": 1}

Lanes go to any number of data ranks. A tensor rank has the channels of its share of the parameters, so the number of
tensor ranks stays.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.checkpoint.manifest import rank_file
from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from trainer.checkpoint.load import Source
    from trainer.engine.engine import Engine

PREFIX = "carried/"


def load_carried(engine: Engine, source: Source) -> None:
    """Give this rank's lanes the states that a checkpoint has of them. Raises `UserError` where some are missing."""
    if engine.carried is None:
        return
    layout, mesh = source.manifest.state["carried"], engine.mesh
    share, stored = layout["lanes"] // mesh.dp_size, layout["lanes"] // layout["data"]
    first, stop = mesh.dp_rank * share, (mesh.dp_rank + 1) * share
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for data in range(first // stored, -(-stop // stored)):
        begin, end = max(first, data * stored) - data * stored, min(stop, (data + 1) * stored) - data * stored
        for name, lanes in source.rows(rank_file(data * layout["tensor"] + mesh.tp_rank), PREFIX, begin, end).items():
            parts[name].append(lanes)
    found = {name: torch.cat(lanes) for name, lanes in parts.items()}
    if any(len(lanes) != share for lanes in found.values()):
        raise UserError(
            f"{source.checkpoint} does not hold the states of all lanes from {first} to {stop}: it is damaged"
        )
    engine.carried.fill(found, engine.device)
