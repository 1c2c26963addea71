"""A small run under a keeper, for tests of saving and restoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.dist.runs import SEQUENCES, global_batch, micro_batches, size_of
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir


def run_steps(
    config: RunConfig,
    root: str,
    stop: int,
    *,
    tokenizer: str = "abc",
    save_every: int = 1,
    stop_on_rank: int | None = None,
    break_step: int | None = None,
    skip: tuple[tuple[int, int], ...] = (),
    settings: dict[str, Any] | None = None,
    sizes: tuple[int, ...] = (),
) -> dict[str, Any]:
    """Restore by the configuration's policy, train to `stop`, save; return what happened on this rank."""
    import torch

    from trainer.checkpoint.keeper import Keeper
    from trainer.engine.build import build_engine
    from trainer.guard.fence import Fence
    from trainer.models.build import build_model
    from trainer.parallel.start import start

    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    most = 2 if sizes else 1
    engine = build_engine(config, build_model(config.model, 0), mesh, lr=1.0, accumulation=most, device=device)
    events: list[dict[str, Any]] = []
    run_dir = RunDir(Path(root))
    keeper = Keeper(
        engine, config.checkpoint, run_dir, fence=Fence(run_dir), keep_every_steps=4, identity={"tokenizer": tokenizer},
        event=lambda name, **values: events.append({"event": name, **values}), settings=settings, skip=skip,
    )  # fmt: skip
    try:
        step = first = keeper.restore()
    except UserError as error:
        return {"error": str(error)}
    losses = []
    while step < stop:
        if step == 2 and mesh.rank == stop_on_rank:
            engine.agreement.ask("stop")
        size = size_of(step, sizes)
        parts = 2 if sizes and size == SEQUENCES else 1
        batches = micro_batches(global_batch(step), mesh.dp_rank, mesh.dp_size, parts, size)
        losses.append(engine.train_step(batches, 3e-3).loss)
        step += 1
        if break_step == step and mesh.rank == 1:
            blocker = Path(root) / "checkpoints" / f".step_{step:09d}.attempt_0" / "rank_00001.safetensors"
            blocker.mkdir(parents=True)  # this rank's file cannot be written
        if step % save_every == 0:
            keeper.save(step, {"step": step, "data_hash": "0", "skipped": [list(s) for s in skip], "shards": {}})
        if engine.agreement.agreed("stop"):
            break
    keeper.close()
    engine.close()
    return {"first": first, "step": step, "losses": losses, "events": events}


def names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints").glob("step_*"))


def aside(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "checkpoints" / "set_aside").glob("*"))


def event(result: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [event for event in result["events"] if event["event"] == name]
    return found


def with_keywords(config: RunConfig, root: str, stop: int, keywords: dict[str, Any]) -> dict[str, Any]:
    return run_steps(config, root, stop, **keywords)
