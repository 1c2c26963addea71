"""The checkpoints of one run: restore by the stated policy, save when due, keep what the rule keeps."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from trainer.checkpoint.compatible import check_identity, root_of
from trainer.checkpoint.load import load
from trainer.checkpoint.manifest import (
    FormatError,
    file_problem,
    list_checkpoints,
    read_manifest,
    step_of,
)
from trainer.checkpoint.retention import steps_to_delete
from trainer.checkpoint.save import CheckpointWriter, discard
from trainer.config.sections import CheckpointConfig
from trainer.engine.engine import Engine
from trainer.errors import UserError
from trainer.guard.fence import Fence
from trainer.run_dir import RunDir, write_atomically

Event = Callable[..., None]


class SaveError(Exception):
    """A checkpoint that the run cannot end without was not written."""


class Keeper:
    """Restores and saves one run's checkpoints. Every rank makes one and calls it at the same steps.

    `identity` names what the parameters were trained on, such as the tokenizer's hash: a checkpoint with another value
    is refused. `event` records what happened on the first rank.
    """

    def __init__(
        self,
        engine: Engine,
        config: CheckpointConfig,
        run_dir: RunDir,
        *,
        fence: Fence,
        keep_every_steps: int | None,
        identity: Mapping[str, str],
        event: Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.config, self.run_dir = engine, config, run_dir
        self.keep_every_steps, self.identity, self.event = keep_every_steps, dict(identity), event
        self.clock, self.saved_at, self.last_step = clock, clock(), -1
        self.state: dict[str, Any] | None = None  # of the data, from the checkpoint that was restored
        self.failure: str | None = None  # why the newest save did not succeed; the same on every rank, settled
        self.writer = CheckpointWriter(
            engine,
            run_dir.checkpoints,
            asynchronous=config.asynchronous,
            attempt=fence.attempt,
            may_commit=fence.open,
            after_commit=self._after_commit,
            failed=self._failed,
        )

    def restore(self) -> int:
        """Load what the policy says, and return the number of steps that are done.

        never         start from the beginning
        if_available  the newest sound checkpoint of the source (default: of this run), else from the beginning
        always        the same, but a source without a sound checkpoint is an error
        warm_start    this run's own newest checkpoint; if it has none, the source's weights at step 0

        Raises `UserError` for a checkpoint of another model, optimizer or tokenizer.
        """
        policy, own = self.config.load, self.run_dir.checkpoints
        source = Path(self.config.source) if self.config.source else None
        if policy == "never":
            return 0
        if policy == "warm_start":
            return self._warm_start(own, source)
        # A run that was pointed at another's checkpoint goes on from its own as soon as it has one.
        found = self._newest_sound(own) or (self._newest_sound(root_of(source)) if source else None)
        if found is None:
            if policy == "always":
                raise UserError(f"checkpoint.load is always, but there is no sound checkpoint in {source or own}")
            return 0
        return self._load(found, weights_only=False)

    def _warm_start(self, own: Path, source: Path | None) -> int:
        found = self._newest_sound(own)
        if found is not None:
            return self._load(found, weights_only=False)
        if source is None:
            raise UserError("checkpoint.load is warm_start: set checkpoint.source to a checkpoint or a run directory")
        found = self._newest_sound(root_of(source))
        if found is None:
            raise UserError(f"checkpoint.source {source} holds no sound checkpoint")
        self._load(found, weights_only=True)
        return 0

    def _load(self, checkpoint: Path, *, weights_only: bool) -> int:
        manifest = read_manifest(checkpoint)
        check_identity(manifest, checkpoint, self.identity, self.engine.config.model)
        began = time.monotonic()
        load(self.engine, checkpoint, weights_only=weights_only)
        step = step_of(checkpoint) or 0
        self.state = None if weights_only else manifest.state.get("data")
        self.last_step = -1 if weights_only else step
        self.engine.step = 0 if weights_only else step
        self.event(
            "warm_started" if weights_only else "resumed",
            step=step, checkpoint=str(checkpoint), seconds=round(time.monotonic() - began, 3),
        )  # fmt: skip
        return step

    def _newest_sound(self, root: Path) -> Path | None:
        """Return the newest checkpoint that every rank finds sound; ranks share the reading, and all agree."""
        single = root if step_of(root) is not None else None
        for path in [single] if single else list_checkpoints(root):
            problem = self._problem(path)
            if problem is None:
                return path
            self.event("checkpoint_passed_over", checkpoint=str(path), problem=problem)
        return None

    def _problem(self, checkpoint: Path) -> str | None:
        mesh = self.engine.mesh
        try:
            files = sorted(read_manifest(checkpoint).files.items())
        except FormatError:
            raise
        except UserError as error:
            return str(error)  # the same for all ranks: they read the same file
        mine = [file_problem(checkpoint, name, file) for name, file in files[mesh.rank :: mesh.world]]
        problems = [problem for problem in mine if problem is not None]
        fine = torch.tensor(int(not problems), device=self.engine.device)
        if mesh.world > 1:
            dist.all_reduce(fine, op=dist.ReduceOp.MIN)
        if fine:
            return None
        return problems[0] if problems else "another rank found a damaged file"

    def minutes_passed(self) -> bool:
        """Return whether `minutes` have passed since the last save; ranks' clocks differ, so they must agree on it."""
        return self.config.minutes is not None and self.clock() - self.saved_at > 60 * self.config.minutes

    def save(self, step: int, data_state: Mapping[str, Any] | None = None) -> None:
        """Save after `step` steps, with the position in the data; nothing to do where that is saved already."""
        if step == self.last_step:
            return
        began = time.monotonic()
        self.writer.wait()
        self.failure = None
        self.writer.save(step, {"identity": self.identity, "data": data_state})
        self.last_step, self.saved_at = step, self.clock()
        self.event("saving", step=step, stalled_seconds=round(time.monotonic() - began, 4))

    def settle(self) -> None:
        """Wait for the checkpoint in flight. Raises `SaveError` on every rank where the newest could not be written."""
        self.writer.wait()
        if self.failure is not None:
            raise SaveError(self.failure)

    def close(self) -> None:
        """Finish the checkpoint in flight."""
        self.writer.close()

    def _failed(self, step: int, error: str) -> None:
        """A save in mid-run costs that checkpoint alone: the next one may find room again."""
        self.failure = f"the checkpoint after step {step} could not be written: {error}"
        print(f"warning: {self.failure}", file=sys.stderr, flush=True)
        self.event("checkpoint_failed", step=step, error=error)

    def _after_commit(self, checkpoint: Path) -> None:
        """Move `latest`, then delete: in this order, so that `latest` always names a checkpoint that exists."""
        write_atomically(self.run_dir.latest, checkpoint.name + "\n")
        self.event("saved", step=step_of(checkpoint), checkpoint=checkpoint.name)
        root = self.run_dir.checkpoints
        steps = [step for path in list_checkpoints(root) if (step := step_of(path)) is not None]
        keep = self.config
        gone = steps_to_delete(steps, keep_last=keep.keep_last, keep_every=self.keep_every_steps, keep_at=keep.keep_at)
        for path in list_checkpoints(root):
            if step_of(path) in gone:
                discard(path)
        for leftover in root.glob(".step_*"):  # of attempts that were killed while they wrote
            shutil.rmtree(leftover, ignore_errors=True)
