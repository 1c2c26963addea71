"""The mesh: which ranks share data, sequence and tensor, and the process groups between them.

rank = (data * sequence_degree + sequence) * tensor_degree + tensor, so tensor ranks are neighbours on a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import distributed_c10d

from trainer.config.parallel import Degrees

Group = dist.ProcessGroup


@dataclass(frozen=True)
class Mesh:
    """This rank's place in the mesh and its process groups.

    A group of one rank is None: no collective is ever started in it. `replica_group` joins the ranks that hold
    the same tensor share: data x sequence. Gradients are reduced over it and ZeRO shards over it.
    """

    degrees: Degrees
    rank: int
    dp_rank: int
    sp_rank: int
    tp_rank: int
    tensor_group: Group | None
    sequence_group: Group | None
    data_group: Group | None
    replica_group: Group
    timeout: timedelta

    @property
    def world(self) -> int:
        """Return the number of all ranks."""
        return self.degrees.world

    @property
    def dp_size(self) -> int:
        """Return the number of data ranks."""
        return self.degrees.data

    @property
    def sp_size(self) -> int:
        """Return the number of ranks that share a sequence."""
        return self.degrees.sequence

    @property
    def tp_size(self) -> int:
        """Return the number of tensor ranks."""
        return self.degrees.tensor

    @property
    def replica_size(self) -> int:
        """Ranks that hold the same tensor share."""
        return self.degrees.data * self.degrees.sequence

    @property
    def replica_rank(self) -> int:
        """Return this rank's place among those that hold the same parameters."""
        return self.dp_rank * self.degrees.sequence + self.sp_rank

    @property
    def is_first(self) -> bool:
        """Return whether this is the rank that writes and reports."""
        return self.rank == 0


def axis_groups(degrees: Degrees) -> dict[str, list[list[int]]]:
    """Return for each axis the lists of ranks that differ in this axis alone; `replica` is data x sequence."""
    axes: dict[str, dict[tuple[int, ...], list[int]]] = {"tensor": {}, "sequence": {}, "data": {}, "replica": {}}
    for rank in range(degrees.world):
        data, sequence, tensor = degrees.coordinates(rank)
        axes["tensor"].setdefault((data, sequence), []).append(rank)
        axes["sequence"].setdefault((data, tensor), []).append(rank)
        axes["data"].setdefault((sequence, tensor), []).append(rank)
        axes["replica"].setdefault((tensor,), []).append(rank)
    return {axis: list(groups.values()) for axis, groups in axes.items()}


def build_mesh(degrees: Degrees, timeout_seconds: float) -> Mesh:
    """Create the process groups of an initialised world, each with the time-out.

    Sub-groups do not inherit the world's time-out (they wait 30 minutes on gloo), so it is given to each.
    """
    rank, timeout = dist.get_rank(), timedelta(seconds=timeout_seconds)
    assert dist.get_world_size() == degrees.world, f"{degrees} for a world of {dist.get_world_size()}"
    mine: dict[str, Group] = {}
    for axis, groups in axis_groups(degrees).items():
        for ranks in groups:
            if len(ranks) == 1 and axis != "replica":
                continue
            group = dist.new_group(ranks, timeout=timeout)  # every rank takes part in every creation
            if rank in ranks:
                mine[axis] = group
    data, sequence, tensor = degrees.coordinates(rank)
    return Mesh(
        degrees=degrees,
        rank=rank,
        dp_rank=data,
        sp_rank=sequence,
        tp_rank=tensor,
        tensor_group=mine.get("tensor"),
        sequence_group=mine.get("sequence"),
        data_group=mine.get("data"),
        replica_group=mine["replica"],
        timeout=timeout,
    )


def limit_every_wait(timeout: timedelta) -> None:
    """Give every process group of this process the time-out, whoever made it: the default is half an hour."""
    for group in list(distributed_c10d._world.pg_map):
        distributed_c10d._set_pg_timeout(timeout, group)
