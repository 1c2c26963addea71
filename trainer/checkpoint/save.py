"""Write a checkpoint: copy to host memory, write in a thread, agree that all ranks wrote, and only then make it exist.

The order is what makes a checkpoint trustworthy: files, then the manifest, then the rename, then `latest`, then the
deletion of old ones. Killed anywhere, the run has the former checkpoint or the new one, never half of one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from trainer.checkpoint.carried import PREFIX
from trainer.checkpoint.compatible import lanes_of
from trainer.checkpoint.manifest import (
    MANIFEST,
    File,
    Manifest,
    Share,
    checkpoint_name,
    file_from_json,
    file_to_json,
    hash_file,
    rank_file,
)
from trainer.checkpoint.retention import discard, sync
from trainer.contract.run_dir import write_atomically
from trainer.engine.engine import Engine
from trainer.engine.protocol import WEIGHT
from trainer.parallel.first_rank import from_first_rank, to_first_rank

CPU = torch.device("cpu")
DONE, FAILED = "+", "-"  # how ranks mark what became of their share


@dataclass
class Snapshot:
    """One rank's part of a checkpoint, in host memory and independent of the engine."""

    step: int
    rank: int
    tensors: dict[str, Tensor]
    shares: dict[str, Share]
    manifest: Manifest  # without files; complete on every rank but written by the first alone


class HostMemory:
    """Where snapshots are copied to, kept from one save to the next: new pages cost more time than the copy itself.

    Pinned where values come from a GPU, so that all copies are under way at once.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def copy(self, key: str, values: Tensor) -> Tensor:
        """Return a copy in host memory, which the next copy of the same key overwrites. See `wait`."""
        kept = self._kept.get(key)
        if kept is None or kept.shape != values.shape:
            kept = self._kept[key] = torch.empty_like(values, device="cpu", pin_memory=values.is_cuda)
        return kept.copy_(values, non_blocking=values.is_cuda)

    def wait(self) -> None:
        """Return when all copies have arrived."""
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()


@torch.no_grad()
def take_snapshot(
    engine: Engine, step: int, state: Mapping[str, Any], memory: HostMemory, trajectory: str = ""
) -> Snapshot:
    """Copy what this rank owns to host memory. Training may go on as soon as this returns."""
    tensors: dict[str, Tensor] = {}
    shares: dict[str, Share] = {}
    for fragment in engine.sharded.fragments():
        split = engine.splits[fragment.name]
        start, stop = fragment.owned
        if start >= stop or (split.dim is None and engine.mesh.tp_rank > 0):
            continue  # another rank owns these values
        window = slice(start - fragment.held[0], stop - fragment.held[0])
        for kind, values in {WEIGHT: fragment.weight, **engine.sharded.moments(fragment)}.items():
            key = f"{fragment.name}|{kind}"
            tensors[key] = memory.copy(key, values[window])
        shares[fragment.name] = Share(split.dim, split.pieces, (start, stop))
    if engine.carried is not None:
        for name, lanes in engine.carried.tensors().items():
            tensors[PREFIX + name] = memory.copy(PREFIX + name, lanes)
        state = {**state, "carried": {**lanes_of(engine.config), "data": engine.mesh.dp_size}}
    memory.wait()
    manifest = Manifest(
        step=step,
        architecture=engine.config.model.architecture(),
        state=dict(state),
        optimizer={"name": engine.config.optim.name, **engine.sharded.counters()},
        parameters={name: split.shape for name, split in engine.splits.items()},
        files={},
        layout=f"{engine.mesh.degrees} x ZeRO {engine.zero_stage}",
        trajectory=trajectory,
    )
    return Snapshot(step, engine.mesh.rank, tensors, shares, manifest)


def write_share(directory: Path, snapshot: Snapshot) -> File:
    """Write one rank's file and return its entry of the manifest. It is on disk when this returns. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / rank_file(snapshot.rank)
    save_file(snapshot.tensors, path, metadata={"step": str(snapshot.step)})
    sync(path)
    return File(path.stat().st_size, hash_file(path), snapshot.shares)


def commit(directory: Path, final: Path, manifest: Manifest) -> None:
    """Make the checkpoint exist: write the manifest last, then rename. Called on the first rank alone."""
    text = manifest.to_json()
    Manifest.from_json(text)  # what no reader would take must fail here, while the checkpoint before is still kept
    write_atomically(directory / MANIFEST, text)
    sync(directory)
    if final.exists():  # an earlier attempt wrote this step; the new one is at least as sound
        discard(final)
    directory.rename(final)
    sync(final.parent)


class CheckpointWriter:
    """Writes checkpoints of one run under `root`, in the background if asked to. All ranks make one together.

    `after_commit` runs on the first rank once a checkpoint exists, in the writing thread: it moves `latest` and
    deletes what the retention rule no longer keeps. `may_commit` is asked before: a run that a newer attempt has
    taken over must not touch the directory any more.
    """

    def __init__(
        self,
        engine: Engine,
        root: Path,
        *,
        asynchronous: bool,
        attempt: int = 0,
        may_commit: Callable[[], bool] = lambda: True,
        after_commit: Callable[[Path], None] = lambda path: None,
        failed: Callable[[int, str], None] = lambda step, error: None,
    ) -> None:
        self.engine, self.root, self.attempt = engine, root, attempt
        self.may_commit, self.after_commit, self.failed = may_commit, after_commit, failed
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if asynchronous else None
        self.pending: Future[None] | None = None
        self.memory = HostMemory()
        self.trajectory = ""  # of the run: what it restored or began decides it
        # A group of its own, on the host: the writing threads agree while training uses the others.
        self.group = dist.new_group(backend="gloo", timeout=engine.mesh.timeout) if engine.mesh.world > 1 else None

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Save after `step` steps. Returns when the values are in host memory, or on disk if not asynchronous.

        Waits first for the checkpoint before: at most one is in flight, and at most one copy is in memory.
        """
        self.wait()
        snapshot = take_snapshot(self.engine, step, state, self.memory, self.trajectory)
        if self.pool is None:
            self._write(snapshot)
        else:
            self.pending = self.pool.submit(self._write, snapshot)

    def wait(self) -> None:
        """Wait for the checkpoint in flight."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    def close(self) -> None:
        """Finish what is in flight."""
        self.wait()
        if self.pool is not None:
            self.pool.shutdown()

    def _write(self, snapshot: Snapshot) -> None:
        temporary = self.root / f".{checkpoint_name(snapshot.step)}.attempt_{self.attempt}"
        entries = self._gather(_outcome(lambda: file_to_json(write_share(temporary, snapshot))))
        error = self._first_decides(lambda: self._commit(temporary, snapshot, entries))
        if error:
            if snapshot.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            self.failed(snapshot.step, error)

    def _commit(self, temporary: Path, snapshot: Snapshot, entries: list[str]) -> None:
        failures = [f"rank {rank}: {entry[1:]}" for rank, entry in enumerate(entries) if entry[0] == FAILED]
        if failures:
            raise OSError("; ".join(failures))
        if not self.may_commit():
            raise OSError("a newer attempt of this run has started: this one no longer writes")
        files = {rank_file(rank): file_from_json(entry[1:]) for rank, entry in enumerate(entries)}
        final = self.root / checkpoint_name(snapshot.step)
        commit(temporary, final, replace(snapshot.manifest, files=files))
        self.after_commit(final)

    def _gather(self, outcome: str) -> list[str]:
        """Return on the first rank what became of every rank's share."""
        return [outcome] if self.group is None else to_first_rank(outcome, CPU, self.group)

    def _first_decides(self, action: Callable[[], None]) -> str:
        """Do something on the first rank, and return on every rank the error that it ended with, or ""."""

        def outcome() -> str:
            try:
                action()
            except Exception as error:  # a full disk must not end the run, and all ranks must hear of it
                return f"{type(error).__name__}: {error}"
            return ""

        return outcome() if self.group is None else from_first_rank(outcome, CPU, self.group)


def _outcome(action: Callable[[], str]) -> str:
    """Return what an action gives, or its error, marked as such: a full disk must not end the run."""
    try:
        return DONE + action()
    except Exception as error:
        return f"{FAILED}{type(error).__name__}: {error}"


def save(engine: Engine, root: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Write one checkpoint and return its path. All ranks call it; it exists when this returns.

    Raises OSError on every rank where any rank could not write.
    """
    problems: list[str] = []
    writer = CheckpointWriter(engine, root, asynchronous=False, failed=lambda _, error: problems.append(error))
    writer.save(step, state)
    writer.close()
    if problems:
        raise OSError(problems[0])
    return root / checkpoint_name(step)
