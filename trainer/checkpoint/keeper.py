"""The checkpoints of one run: restore by the stated policy, save when due, keep what the rule keeps."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint.manifest import list_checkpoints, step_of
from trainer.checkpoint.restore import Event, Restorer
from trainer.checkpoint.retention import discard, misplaced, misplaced_among, set_aside, steps_to_delete
from trainer.checkpoint.save import CheckpointWriter
from trainer.config.sections import CheckpointConfig
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, write_atomically
from trainer.data.order.skipping import Ranges
from trainer.engine.engine import Engine
from trainer.guard.fence import Fence


class SaveError(Exception):
    """A checkpoint that the run cannot end without was not written."""


class Keeper:
    """Restores and saves one run's checkpoints. Every rank makes one and calls it at the same steps.

    `identity` names what the parameters were trained on, such as the tokenizer's hash: a checkpoint with another value
    is refused. `settings` are kept with each checkpoint, and what differs from them later is said (see `settings.py`).
    `skip` are the steps of the data order that the run is asked to leave out. `event` records what happened on the
    first rank.
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
        settings: Mapping[str, Any] | None = None,
        skip: Ranges = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine, self.config, self.run_dir, self.fence = engine, config, run_dir, fence
        self.settings, self.skip = dict(settings or {}), skip
        self.keep_every_steps, self.identity, self.event = keep_every_steps, dict(identity), event
        self.clock, self.saved_at, self.last_step = clock, clock(), -1
        self.state: dict[str, Any] | None = None  # of the data, from the checkpoint that was restored
        self.health: dict[str, Any] = {}  # of the health rules, from the same
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

        One that is damaged, or has read what the run is now asked to skip, is passed over and set aside, and the next
        older one is tried. Raises `UserError`, on all ranks, for a checkpoint of another model, optimizer or tokenizer.
        """
        return self._restore(self.config)

    def roll_back(self, skip: Ranges) -> int:
        """Load the run's newest checkpoint that has read nothing of `skip`; return the number of steps that are done.

        The newer ones are set aside. Raises `UserError`, on all ranks, where there is none (see `can_roll_back`).
        """
        self.writer.wait()
        self.skip = skip
        return self._restore(self.config.model_copy(update={"load": "always", "source": None}))

    def can_roll_back(self, step: int) -> bool:
        """Return whether the run has a sound checkpoint of at most `step` steps, as far as sizes of files tell.

        Asked on the first rank alone, with no checkpoint in flight.
        """
        found = (path for path in list_checkpoints(self.run_dir.checkpoints) if (step_of(path) or 0) <= step)
        return any(misplaced(path, trajectory=self.writer.trajectory, newest=step) is None for path in found)

    def _restore(self, config: CheckpointConfig) -> int:
        restored = Restorer(
            self.engine,
            config,
            self.run_dir,
            fence=self.fence,
            identity=self.identity,
            settings=self.settings,
            skip=self.skip,
            event=self.event,
        ).restore()
        self.state, self.health, self.writer.trajectory = restored.data, restored.health, restored.trajectory
        self.last_step = restored.step if restored.saved else -1
        return restored.step

    def minutes_passed(self) -> bool:
        """Return whether `minutes` have passed since the last save; ranks' clocks differ, so they must agree on it."""
        return self.config.minutes is not None and self.clock() - self.saved_at > 60 * self.config.minutes

    def save(
        self, step: int, data_state: Mapping[str, Any] | None = None, health: Mapping[str, Any] | None = None
    ) -> None:
        """Save after `step` steps, with the position in the data and the state of the health rules.

        Nothing to do where that step is saved already.
        """
        if step == self.last_step:
            return
        began = time.monotonic()
        self.writer.wait()
        self.failure = None
        state = {"identity": self.identity, "settings": self.settings, "data": data_state}
        self.writer.save(step, {**state, "health": health} if health else state)
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
        """Move `latest`, then delete: in this order, so that `latest` always names a checkpoint that exists.

        The checkpoint exists already: what fails here costs order in the directory, and is said.
        """
        try:
            write_atomically(self.run_dir.latest, checkpoint.name + "\n")
            self.event("saved", step=step_of(checkpoint), checkpoint=checkpoint.name)
            if self.fence.open():
                self._keep_what_counts(step_of(checkpoint) or 0)
        except (OSError, UserError) as error:  # the latter for a directory that cannot be listed
            print(f"warning: {checkpoint.name} is saved, but not all after it: {error}", file=sys.stderr, flush=True)

    def _keep_what_counts(self, newest: int) -> None:
        root, keep = self.run_dir.checkpoints, self.config
        for found in list(misplaced_among(root, keep.keep_last, trajectory=self.writer.trajectory, newest=newest)):
            target = set_aside(found.checkpoint, found.reason)
            self.event(
                "set_aside", checkpoint=found.checkpoint.name, to=str(target), reason=found.reason,
                problem=found.problem,
            )  # fmt: skip
        steps = [step for path in list_checkpoints(root) if (step := step_of(path)) is not None]
        gone = steps_to_delete(steps, keep_last=keep.keep_last, keep_every=self.keep_every_steps, keep_at=keep.keep_at)
        for path in list_checkpoints(root):
            if step_of(path) in gone:
                discard(path)
        for leftover in root.glob(".step_*"):  # of attempts that were killed while they wrote
            shutil.rmtree(leftover, ignore_errors=True)
