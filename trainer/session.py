"""Open everything that one rank needs: data, model, engine, checkpoint, record. `trainer/loop.py` then trains."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from trainer.config.plan import Plan
from trainer.config.resolve import data_directory
from trainer.config.run import RunConfig
from trainer.data.batches import Batches, held_out
from trainer.data.manifest import Manifest
from trainer.data.token_set import TokenSet
from trainer.evaluation.perplexity import Evaluation, evaluate
from trainer.loop import Run
from trainer.models.transformer import Transformer
from trainer.parallel.engine import Engine, build_engine
from trainer.parallel.mesh import Mesh
from trainer.provenance import provenance
from trainer.run_dir import RunDir, write_atomically
from trainer.tracking.record import Mirror, Record
from trainer.tracking.throughput import Throughput


@dataclass
class Session:
    """One rank's open run, and what must be closed after it."""

    run: Run
    run_dir: RunDir
    manifest: Manifest
    closers: list[Callable[[], None]]
    began: float = field(default_factory=time.monotonic)
    evaluations: list[Evaluation] = field(default_factory=list)  # of the newest evaluation

    def close(self) -> None:
        """Finish what is in flight."""
        for close in self.closers:
            close()


def open_session(
    config: RunConfig, plan: Plan, manifest: Manifest, mesh: Mesh, device: torch.device, run_dir: RunDir
) -> Session:
    """Open the data, build the model and its engine, load the newest checkpoint, and start the record."""
    directory = data_directory(config)
    batches = Batches(
        TokenSet.open(directory, "train"),
        context_length=config.model.context_length,
        sequences_per_step=plan.sequences_per_step,
        micro_batch=plan.micro_batch,
        seed=config.seed,
        dp_rank=mesh.dp_rank,
        dp_size=mesh.dp_size,
        pin_memory=device.type == "cuda",
    )
    with torch.device("meta"):
        model = Transformer(config.model)
    engine = build_engine(config, model, mesh, lr=plan.lr, accumulation=plan.accumulation, device=device)
    step = 0
    record = _open_record(config, plan, run_dir, first=mesh.rank == 0)
    record.rewind(step)
    session: Session

    def evaluate_all() -> list[Evaluation]:
        session.evaluations = [_evaluate(name, config, plan, engine, mesh) for name in manifest.evaluation_sets()]
        return session.evaluations

    run = Run(
        config=config,
        plan=plan,
        engine=engine,
        batches=batches,
        record=record,
        throughput=Throughput(plan.tokens_per_step),
        evaluate=evaluate_all,
        save=lambda step: None,
        stop_requested=lambda: False,
        step=step,
    )
    session = Session(run=run, run_dir=run_dir, manifest=manifest, closers=[batches.close, engine.close])
    return session


def _evaluate(name: str, config: RunConfig, plan: Plan, engine: Engine, mesh: Mesh) -> Evaluation:
    token_set = TokenSet.open(data_directory(config), name)
    batches = held_out(
        token_set,
        config.model.context_length,
        config.evaluation.tokens,
        plan.micro_batch,
        mesh.dp_rank,
        mesh.dp_size,
    )
    return evaluate(
        engine,
        mesh,
        batches,
        name=name,
        position_buckets=config.evaluation.position_buckets,
        bytes_per_token=token_set.manifest.bytes_per_token(name),
    )


def _open_record(config: RunConfig, plan: Plan, run_dir: RunDir, *, first: bool) -> Record:
    """Open the local record on the first rank, with W&B as its mirror under the id that earlier attempts used."""
    mirrors: tuple[Mirror, ...] = ()
    if first:
        identity = _run_identity(run_dir)
        write_atomically(run_dir.run, json.dumps({**identity, **provenance()}, indent=2) + "\n")
        if config.tracking.wandb != "disabled":
            mirrors = (_open_wandb(config, plan, run_dir, identity["wandb_id"]),)
    return Record(run_dir, active=first, mirrors=mirrors)


def _run_identity(run_dir: RunDir) -> dict[str, str]:
    if run_dir.run.exists():
        return {"wandb_id": json.loads(run_dir.run.read_text())["wandb_id"]}
    return {"wandb_id": os.urandom(6).hex()}


def _open_wandb(config: RunConfig, plan: Plan, run_dir: RunDir, run_id: str) -> Mirror:
    from trainer.tracking.wandb_mirror import WandbMirror, resolve_mode

    settings = {
        "project": config.tracking.project,
        "group": config.tracking.group,
        "name": config.name,
        "tags": list(config.tracking.tags),
        "config": {**config.model_dump(mode="json"), "plan": json.loads(plan.to_json())},
    }
    mode = resolve_mode(config.tracking.wandb)
    return WandbMirror(run_id=run_id, mode=mode, directory=Path(run_dir.root), settings=settings)
