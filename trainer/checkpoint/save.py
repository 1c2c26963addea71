"""Write a checkpoint: copy to host memory, write in a thread, agree that all ranks wrote, and only then make it exist.

The order is what makes a checkpoint trustworthy: files, then the manifest, then the rename, then `latest`, then the
deletion of old ones. Killed anywhere, the run has the former checkpoint or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from trainer.checkpoint.compatible import architecture_values
from trainer.checkpoint.manifest import MANIFEST, File, Manifest, Share, checkpoint_name, file_from_json, hash_file
from trainer.engine.engine import Engine
from trainer.engine.protocol import WEIGHT
from trainer.run_dir import write_atomically


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
def take_snapshot(engine: Engine, step: int, state: Mapping[str, Any], memory: HostMemory) -> Snapshot:
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
    memory.wait()
    manifest = Manifest(
        step=step,
        architecture=architecture_values(engine.config.model),
        state=dict(state),
        optimizer={"name": engine.config.optim.name, **engine.sharded.counters()},
        parameters={name: split.shape for name, split in engine.splits.items()},
        files={},
        layout=f"{engine.mesh.degrees} x ZeRO {engine.zero_stage}",
    )
    return Snapshot(step, engine.mesh.rank, tensors, shares, manifest)


def write_share(directory: Path, snapshot: Snapshot) -> None:
    """Write one rank's file and, after it, its entry of the manifest. Both are on disk when this returns."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"rank_{snapshot.rank:05d}.safetensors"
    save_file(snapshot.tensors, path)
    sync(path)
    entry = File(path.stat().st_size, hash_file(path), snapshot.shares)
    write_atomically(directory / f"{path.stem}.json", json.dumps(asdict(entry)))


def commit(directory: Path, final: Path, snapshot: Snapshot, world: int) -> None:
    """Make the checkpoint exist: gather entries, write the manifest last, rename. Called on the first rank alone."""
    files = {}
    for rank in range(world):
        entry = directory / f"rank_{rank:05d}.json"
        files[f"rank_{rank:05d}.safetensors"] = file_from_json(json.loads(entry.read_text()))
        entry.unlink()
    manifest = Manifest(**{**vars(snapshot.manifest), "files": files})
    write_atomically(directory / MANIFEST, manifest.to_json())
    sync(directory)
    if final.exists():  # an earlier attempt wrote this step; the new one is at least as sound
        discard(final)
    directory.rename(final)
    sync(final.parent)


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint: it ceases to exist in one step, and its bytes go after that."""
    gone = checkpoint.with_name(f".{checkpoint.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sync(path: Path) -> None:
    """Have the operating system put a file or a directory's entries on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        # A group of its own, on the host: the writing threads agree while training uses the others.
        self.group = dist.new_group(backend="gloo", timeout=engine.mesh.timeout) if engine.mesh.world > 1 else None

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Save after `step` steps. Returns when the values are in host memory, or on disk if not asynchronous.

        Waits first for the checkpoint before: at most one is in flight, and at most one copy is in memory.
        """
        self.wait()
        snapshot = take_snapshot(self.engine, step, state, self.memory)
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
        error = _error_of(lambda: write_share(temporary, snapshot))
        if self._all_agree(error is None) and snapshot.rank == 0:
            error = _error_of(lambda: self._commit(temporary, snapshot))
        if not self._all_agree(error is None):
            if snapshot.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            self.failed(snapshot.step, error or "another rank could not write its share")

    def _commit(self, temporary: Path, snapshot: Snapshot) -> None:
        if not self.may_commit():
            raise OSError("a newer attempt of this run has started: this one no longer writes")
        final = self.root / checkpoint_name(snapshot.step)
        commit(temporary, final, snapshot, self.engine.mesh.world)
        self.after_commit(final)

    def _all_agree(self, fine: bool) -> bool:
        if self.group is None:
            return fine
        flag = torch.tensor(int(fine))
        dist.all_reduce(flag, op=dist.ReduceOp.MIN, group=self.group)
        return bool(flag)


def _error_of(action: Callable[[], None]) -> str | None:
    """Run an action and return its error as text: a full disk must not end the run, and all ranks must hear of it."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


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
