"""Open everything that one rank needs: data, model, engine, checkpoint, record. `trainer/loop/` then trains."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from trainer.checkpoint.compatible import identity_of
from trainer.checkpoint.keeper import Keeper
from trainer.checkpoint.rollback import read_rollbacks, skipped_by
from trainer.checkpoint.settings import settings_of
from trainer.config.data import DataConfig
from trainer.config.load import dump, run_from_values
from trainer.config.parallel import node_warning
from trainer.config.run import RunConfig
from trainer.config.yaml_text import parse_yaml
from trainer.contract.attempts import seconds_before
from trainer.contract.errors import os_error_text
from trainer.contract.provenance import process_started
from trainer.contract.run_dir import RunDir, Status, write_atomically
from trainer.data.order.skipping import Ranges, parse_ranges, steps_before
from trainer.data.read.batches import Batches
from trainer.data.read.opening import evaluation_sets, open_batches, open_manifest
from trainer.data.read.transfer import Transfer
from trainer.data.store.manifest import Manifest
from trainer.data.store.pinned import pin
from trainer.engine.batch import check_ids
from trainer.engine.build import build_engine
from trainer.engine.cost import open_costs
from trainer.engine.engine import Engine
from trainer.engine.norms import Norms
from trainer.engine.peak import peak_flops
from trainer.evaluation.evaluator import Evaluator
from trainer.evaluation.text_bytes import agreed_text_bytes
from trainer.guard.fence import Fence
from trainer.guard.health import Health
from trainer.guard.position import write_position
from trainer.guard.signals import on_stop_signal
from trainer.guard.watchdog import Watchdog, end_process
from trainer.loop.run import Run, reads_late
from trainer.models.build import make_model
from trainer.observe.console import ConsoleObserver
from trainer.observe.identity import sign
from trainer.observe.live_law import LiveLaw, open_live_law
from trainer.observe.observers import Observer, Observers
from trainer.observe.profile import Profile
from trainer.observe.record import Record
from trainer.observe.tensorboard import TensorBoard, check_installed
from trainer.observe.throughput import Throughput
from trainer.observe.wall_time import WallTime
from trainer.observe.wandb_mirror import WandbMirror, resolve_mode
from trainer.parallel.first_rank import from_first_rank
from trainer.parallel.mesh import Mesh
from trainer.parallel.start import join_world, resolve_device, start, world_from_environment
from trainer.plan.likeness import likeness, unlike_expected
from trainer.plan.plan import Plan, make_plan
from trainer.plan.resolve import with_data


@dataclass
class Session:
    """One rank's open run, and what must be closed after it."""

    run: Run
    run_dir: RunDir
    manifest: Manifest
    closers: list[Callable[[], None]]
    began: float = field(default_factory=time.monotonic)

    def close(self) -> None:
        """Finish what is in flight."""
        for close in self.closers:
            close()


def open_run(config: RunConfig, run_dir: RunDir, fence: Fence) -> Session:
    """Join the world and open everything that this rank needs to train a run in a directory. A collective call."""
    torch.manual_seed(0)
    device = resolve_device(config.device)
    rank, world, _ = world_from_environment()
    join_world(config.parallel.timeout_seconds, device)
    config = agreed_config(config, run_dir, device)
    mesh = start(config.parallel, device)
    manifest = agreed_manifest(config.data, run_dir, device)
    config = with_data(config, manifest)
    plan = make_plan(config, world=world, gpu=device.type == "cuda", train_tokens=manifest.tokens("train"))
    if rank == 0:
        if warning := node_warning(plan.degrees, int(os.environ.get("LOCAL_WORLD_SIZE", world))):
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        _begin(run_dir, plan)
    return open_session(config, plan, manifest, mesh, device, run_dir, fence)


def _begin(run_dir: RunDir, plan: Plan) -> None:
    """Say who runs, then that it runs. A disk that is full already ends no run whose checkpoints may still fit."""
    try:
        sign(run_dir)
        run_dir.write_status(Status.RUNNING)
        write_atomically(run_dir.plan, plan.to_json())
    except OSError as error:
        print(f"warning: {os_error_text(error)}; training goes on", file=sys.stderr, flush=True)


def agreed_manifest(data: DataConfig, run_dir: RunDir, device: torch.device) -> Manifest:
    """Return the shards that this run keeps to, the same on every rank though preparation may still be adding some."""
    text = from_first_rank(
        lambda: pin(run_dir.data, open_manifest(data), data.begin).model_dump_json(),
        device,
    )
    return Manifest.parse(text, data.directory)


def agreed_config(mine: RunConfig, run_dir: RunDir, device: torch.device) -> RunConfig:
    """Return the configuration that the first rank read: another may have seen the file of an earlier attempt."""
    values = parse_yaml(from_first_rank(lambda: dump(mine), device))
    return run_from_values(values, str(run_dir.config), written=True)


def open_session(
    config: RunConfig, plan: Plan, manifest: Manifest, mesh: Mesh, device: torch.device, run_dir: RunDir, fence: Fence
) -> Session:
    """Open the data, build the model and its engine, load the newest checkpoint, and start the record."""
    with torch.device("meta"):
        model = make_model(config.model)
    engine = build_engine(config, model, mesh, lr=plan.lr, accumulation=plan.accumulation, device=device)
    record = Record(run_dir)
    observers = _open_observers(config, run_dir, fence, record, first=mesh.rank == 0)
    rollbacks = read_rollbacks(run_dir, device)
    skip = skipped_by(rollbacks, parse_ranges(config.skip_steps))
    keeper = _open_keeper(config, plan, engine, manifest, observers, run_dir, fence, skip)
    step = keeper.restore()
    costs = open_costs(device, plan.degrees.world, counted=mesh.is_first)
    rows, held = (record.training_rows(), seconds_before(run_dir.root, fence.attempt)) if mesh.is_first else ([], 0.0)
    wall_time = WallTime(costs, rows, step, started=process_started(), held=held)
    if observers.active:
        record.rewind(step)
    batches = _open_batches(config, plan, manifest, mesh, device, keeper.state, skip)
    manifest = batches.samples.manifest  # a checkpoint of another run may know fewer shards
    guards = _stand_guard(config, engine, keeper, fence)
    ranges = parse_ranges(config.tracking.profile_steps)
    profile = Profile(run_dir, mesh.rank, ranges, cuda=device.type == "cuda", event=observers.event)
    _say_about_data(batches, observers)
    run = Run(
        config=config,
        plan=plan,
        engine=engine,
        batches=batches,
        keeper=keeper,
        evaluator=Evaluator(
            config,
            manifest,
            engine,
            _evaluation_sets(config, manifest, observers),
            micro_batch=plan.micro_batch,
            text_bytes=agreed_text_bytes(config.data, manifest, run_dir, device),
        ),
        observers=observers,
        throughput=Throughput(plan.tokens_per_step),
        wall_time=wall_time,
        record=record,
        health=_health(config, engine, keeper, observers),
        rollbacks=rollbacks,
        profile=profile,
        norms=Norms(engine, activations=config.tracking.activations) if config.tracking.norms_every else None,
        peak_flops=peak_flops(device) if mesh.is_first else None,
        live_law=_live_law(config, plan, run_dir, batches, observers) if mesh.is_first else None,
        step=step,
        reads_late=reads_late(config, engine),
    )
    return Session(run, run_dir, manifest, closers=[profile.close, batches.close, keeper.close, *guards, engine.close])


def _live_law(config: RunConfig, plan: Plan, run_dir: RunDir, batches: Batches, observers: Observers) -> LiveLaw | None:
    """Return what follows the run's expected curve, where it has one."""
    data_hash = batches.samples.manifest.data_hash
    until = steps_before(batches.skipped)
    return open_live_law(
        run_dir, likeness(config), plan.steps, observers.event,
        lambda curve: unlike_expected(curve, config, data_hash), until,
    )  # fmt: skip


def _health(config: RunConfig, engine: Engine, keeper: Keeper, observers: Observers) -> Health:
    """Return the health rules as the checkpoint left them. The first rank alone asks for what they say."""
    first = engine.mesh.is_first
    health = Health(config.guard, ask=engine.agreement.ask if first else lambda what: None, event=observers.event)
    health.load(keeper.health)
    return health


def _open_batches(
    config: RunConfig,
    plan: Plan,
    manifest: Manifest,
    mesh: Mesh,
    device: torch.device,
    state: dict[str, Any] | None,
    skip: Ranges,
) -> Batches:
    vocab_size = config.model.vocab_size
    assert vocab_size is not None
    return open_batches(
        config.data,
        context_length=config.model.context_length,
        sequences_per_step=plan.sequences_per_step,
        micro_batch=plan.micro_batch,
        seed=config.order_seed,
        dp_rank=mesh.dp_rank,
        dp_size=mesh.dp_size,
        total_steps=plan.steps,
        manifest=manifest,
        state=state,
        skip_steps=skip,
        ramp=plan.ramp,
        transfer=Transfer(device, partial(check_ids, vocab_size=vocab_size)) if device.type == "cuda" else None,
    )


def _open_keeper(
    config: RunConfig,
    plan: Plan,
    engine: Engine,
    manifest: Manifest,
    observers: Observers,
    run_dir: RunDir,
    fence: Fence,
    skip: Ranges,
) -> Keeper:
    every = config.checkpoint.keep_every
    return Keeper(
        engine,
        config.checkpoint,
        run_dir,
        fence=fence,
        keep_every_steps=None
        if every is None
        else every.steps(tokens_per_step=plan.tokens_per_step, total_steps=plan.steps),
        identity=identity_of(manifest),
        event=observers.event,
        settings=settings_of(config, plan),
        skip=skip,
    )


def _stand_guard(config: RunConfig, engine: Engine, keeper: Keeper, fence: Fence) -> list[Callable[[], None]]:
    """Listen for stop signals, watch for silence and newer attempts, ask for saves in time; return how to end it."""

    def end(seconds: float) -> None:
        write_position(fence.run_dir.logs(fence.attempt), engine.mesh.rank, "its watchdog ended it")
        end_process(seconds)

    watchdog = Watchdog(config.guard.watchdog_seconds, on_silence=end)

    def progress() -> None:
        watchdog.beat()
        if keeper.minutes_passed():
            engine.agreement.ask("save")
        if engine.mesh.is_first and not fence.open():
            engine.agreement.ask("leave")

    engine.progress = progress
    return [on_stop_signal(lambda: engine.agreement.ask("stop")), watchdog.close]


def _evaluation_sets(config: RunConfig, manifest: Manifest, observers: Observers) -> list[str]:
    """Return the sets to evaluate on. Parts of a set that are too short are left out, aloud."""
    wanted, left_out = evaluation_sets(config.data, manifest, config.model.context_length)
    for name in left_out:
        observers.event("evaluation_left_out", eval_set=name, tokens=manifest.tokens(name))
        if observers.active:
            print(f"warning: no evaluation on {name}: it is shorter than one sequence", file=sys.stderr, flush=True)
    return wanted


def _say_about_data(batches: Batches, observers: Observers) -> None:
    """Record, and say, which sources are not read and what changed since the checkpoint that the run goes on from."""
    said = []
    for source, tokens in batches.left_out().items():
        observers.event("source_left_out", source=source, tokens=tokens)
        said.append(f"nothing of source {source!r} is read: its {tokens:,} tokens are fewer than one sequence needs")
    for change in batches.changes:
        observers.event("data_changed", change=change)
        said.append(change)
    for sentence in said if observers.active else ():
        print(f"warning: {sentence}", file=sys.stderr, flush=True)


def _open_observers(config: RunConfig, run_dir: RunDir, fence: Fence, record: Record, *, first: bool) -> Observers:
    """Return who is told what happens: the record, the console, and W&B where it can be reached with credentials."""
    if config.tracking.tensorboard:
        check_installed()
    listed: list[Observer] = [record, ConsoleObserver()]
    if first and config.tracking.tensorboard:
        listed.append(TensorBoard(run_dir))
    if first and resolve_mode(config.tracking.wandb) == "online":
        listed.append(WandbMirror(run_dir))
    if not first and os.environ.get("LOCAL_RANK") == "0" and resolve_mode(config.tracking.wandb) == "online":
        return Observers([WandbMirror(run_dir, node=socket.gethostname())], first=False)
    return Observers(listed if first else [], first=first, may_write=fence.open)
