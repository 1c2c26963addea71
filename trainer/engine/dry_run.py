"""One rank of a large world without the world: `python -m trainer.engine.dry_run --config FILE --world 1024`.

The real model is built of tensors without data, spread by the real code over fake process groups that answer every
collective at once, and taken forward and backward. What comes out are the shapes that a rank would hold: it proves
that the layout is valid and measures parameters and saved activations, which the planner only estimates.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from trainer.config.load import load_run
from trainer.config.parallel import check_model_splits, resolve_degrees
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_USER_ERROR
from trainer.engine.build import library_of
from trainer.engine.recompute import recompute_blocks
from trainer.models.build import make_model
from trainer.models.interface import LanguageModel
from trainer.parallel.mesh import Mesh, build_mesh
from trainer.parallel.sequence import shard_attention
from trainer.parallel.tensor.shard import cut_parameters, splits_of
from trainer.plan.plan import make_plan


def main() -> int:
    """Entry point: one JSON line on standard output."""
    parser = argparse.ArgumentParser(description="Dry-run one rank of a layout.")
    parser.add_argument("--config", type=Path, required=True, help="a run whose vocabulary is known")
    parser.add_argument("--world", type=int, required=True)
    arguments = parser.parse_args()
    os.environ["RANK"], os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"] = "0", "0", str(arguments.world)
    try:
        print(json.dumps(dry_run(load_run(arguments.config), arguments.world)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


def dry_run(config: RunConfig, world: int) -> dict[str, object]:
    """Return what rank 0 of the world would hold. Sizes in bytes, of bf16 values where the run would train in bf16."""
    began = time.monotonic()
    degrees = resolve_degrees(config.parallel, world)
    check_model_splits(config.model, degrees)
    plan = make_plan(config, world=world, gpu=True)
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        library_of(config.parallel.engine).prepare(torch.device("cpu"), backend="fake")
        mesh = build_mesh(degrees, config.parallel.timeout_seconds)
        with FakeTensorMode():
            model = _spread(config, mesh)
            parameters = sum(parameter.numel() for parameter in model.parameters())
            saved = _forward_and_backward(model, config, plan.micro_batch, mesh)
    finally:
        dist.destroy_process_group()
    return {
        "world": world,
        "layout": plan.layout,
        "parameters": parameters,
        "saved_bytes": saved,
        "planned_parameters": plan.memory_bytes["parameters"] // 2 if config.parallel.zero_stage < 3 else None,
        "planned_saved_bytes": plan.memory_bytes["activations"] + plan.memory_bytes["logits"],
        "seconds": time.monotonic() - began,
    }


def _spread(config: RunConfig, mesh: Mesh) -> LanguageModel:
    torch.set_default_dtype(torch.bfloat16)
    model = make_model(config.model)
    splits = splits_of(model, mesh)
    library_of(config.parallel.engine).share_layers(model, mesh)
    cut_parameters(model, splits)
    shard_attention(model, mesh)
    recompute_blocks(model, config.parallel.recompute)
    return model


def _forward_and_backward(model: LanguageModel, config: RunConfig, micro_batch: int, mesh: Mesh) -> int:
    """Return the bytes that the forward pass leaves for the backward pass, parameters not counted."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
        return tensor

    length = config.model.context_length // mesh.sp_size
    tokens = torch.zeros(micro_batch, length, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        state = model.carried_state() if config.model.carries else None
        loss = model(tokens, tokens, state=state).float().sum()
    loss.backward()
    return sum(seen.values())


if __name__ == "__main__":
    sys.exit(main())
