"""The mesh as DeepSpeed wants to see it: the `mpu` object of Megatron-LM.

DeepSpeed's "data parallel" group is our replica group (data x sequence). It is not told of the sequence axis: gradients
are summed over it like over data, and DeepSpeed's own handling divides the loss at some ZeRO stages and not at others.
"""

from __future__ import annotations

import torch.distributed as dist

from trainer.parallel.mesh import Group, Mesh


class Topology:
    """Answers DeepSpeed's questions about groups. Method names are Megatron-LM's."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        # DeepSpeed takes None for the whole world, so one tensor rank needs a group of its own.
        self._tensor_group = mesh.tensor_group or dist.new_group([mesh.rank], use_local_synchronization=True)

    def get_data_parallel_group(self) -> Group:
        return self._mesh.replica_group

    def get_data_parallel_world_size(self) -> int:
        return self._mesh.replica_size

    def get_data_parallel_rank(self) -> int:
        return self._mesh.replica_rank

    def get_data_parallel_group_ranks(self) -> list[int]:
        return dist.get_process_group_ranks(self._mesh.replica_group)

    def get_model_parallel_group(self) -> Group:
        return self._tensor_group

    def get_model_parallel_world_size(self) -> int:
        return self._mesh.tp_size

    def get_model_parallel_rank(self) -> int:
        return self._mesh.tp_rank

    get_tensor_model_parallel_group = get_model_parallel_group
    get_tensor_model_parallel_world_size = get_model_parallel_world_size
    get_tensor_model_parallel_rank = get_model_parallel_rank
