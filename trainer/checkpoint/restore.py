"""How a run begins: which checkpoint it takes, what it leaves behind, and what it says about that.

The first rank alone looks at the directory. It tells the others which checkpoint is tried and what its manifest says;
all ranks share the reading of the bytes, and a checkpoint is taken only where none of them finds anything wrong.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.checkpoint.compatible import check_identity
from trainer.checkpoint.course import Course, put_in_order
from trainer.checkpoint.load import UnreadableError, load
from trainer.checkpoint.manifest import Manifest, file_problem, size_problem
from trainer.checkpoint.search import Candidate, Passed, candidates, first_sound, root_of, sizes_problem
from trainer.checkpoint.settings import changed_settings, refuse_other_order, sentence
from trainer.config.sections import CheckpointConfig
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir
from trainer.data.order.skipping import Ranges, join_ranges
from trainer.engine.engine import Engine
from trainer.guard.fence import Fence
from trainer.parallel.first_rank import by_rank, from_first_rank, to_first_rank

Event = Callable[..., None]
SIGHT_SECONDS = 60.0  # that a rank may lag behind the first in what it sees: what NFS keeps at most by default
_END = Candidate("")


@dataclass(frozen=True)
class Restored:
    """What a run begins with.

    `data` is the position in the data, `health` the state of the health rules; `saved` says that its step is saved.
    """

    step: int
    trajectory: str
    data: dict[str, Any] | None = None
    saved: bool = False
    health: dict[str, Any] = field(default_factory=dict)


@dataclass
class Restorer:
    """Restores one run by its policy. Every rank makes one and calls `restore` together.

    `settings` are those of `settings_of`, `skip` the steps of the data order that this run is asked to leave out.
    """

    engine: Engine
    config: CheckpointConfig
    run_dir: RunDir
    fence: Fence
    identity: Mapping[str, str]
    settings: Mapping[str, Any]
    skip: Ranges
    event: Event
    passed: list[Passed] = field(default_factory=list)
    passed_in_source: list[Passed] = field(default_factory=list)  # of a warm start: no progress of this run is lost
    left: set[str] = field(default_factory=set)  # sound, but they have read what is to be skipped
    touched: bool = False  # a checkpoint was read in part: the model is no longer as it was built

    def restore(self) -> Restored:
        """Load what the policy says. Raises `UserError`, on all ranks alike. See `Keeper.restore`."""
        policy, own = self.config.load, self.run_dir.checkpoints
        source = root_of(Path(self.config.source)) if self.config.source else None
        began = time.monotonic()
        if policy == "never":
            return self._begin(None, None, began)
        if (found := self._take(own, weights_only=False)) is not None:
            return self._begin(*found, began)
        if policy == "warm_start" and source is None:
            raise UserError("checkpoint.load is warm_start: set checkpoint.source to a checkpoint or a run directory")
        if source is not None and (found := self._take(source, weights_only=policy == "warm_start")) is not None:
            return self._begin(*found, began, warm=policy == "warm_start")
        if policy in ("always", "warm_start") or self.touched:
            passed = "".join(
                f"; {row.checkpoint} was passed over: {row.problem}" for row in [*self.passed, *self.passed_in_source]
            )
            raise UserError(f"checkpoint.load is {policy}, but there is no sound checkpoint in {source or own}{passed}")
        return self._begin(None, None, began)

    def _take(self, root: Path, *, weights_only: bool) -> tuple[Path, Manifest] | None:
        """Load the newest checkpoint that every rank finds sound, or return None."""
        offered = self._agreed_candidates(root)
        passed = self.passed_in_source if weights_only else self.passed
        conflicts: list[str] = []

        def problem_of(checkpoint: Path, manifest: Manifest) -> str | None:
            if not weights_only and (conflict := self._skip_conflict(manifest)):
                conflicts.append(conflict)
                self.left.add(checkpoint.name)
                return conflict
            return self._files_problem(checkpoint, manifest)

        while True:
            found = first_sound(offered, problem_of)
            passed.extend(found.passed)
            if found.checkpoint is None or found.manifest is None:
                if conflicts:
                    raise UserError(conflicts[-1])
                return None
            check_identity(found.manifest, found.checkpoint, self.identity, self.engine.config.model)
            if not weights_only:
                self._compare_settings(found.checkpoint, found.manifest)
            try:
                load(self.engine, found.checkpoint, found.manifest, weights_only=weights_only)
            except UnreadableError as error:
                self.touched = True
                passed.append(Passed(found.checkpoint.name, str(error)))
                continue
            return found.checkpoint, found.manifest

    def _agreed_candidates(self, root: Path) -> Iterator[Candidate]:
        """Yield on every rank what the first finds in a directory."""
        found = candidates(root)
        while True:
            text = from_first_rank(lambda: json.dumps(asdict(next(found, _END))), self.engine.device)
            candidate = Candidate(**json.loads(text))
            if candidate == _END:
                return
            yield candidate

    def _skip_conflict(self, manifest: Manifest) -> str | None:
        """Return why the run cannot leave out what it is asked to, where the checkpoint has read that already."""
        data = manifest.state.get("data")
        if not data:
            return None
        try:
            join_ranges(tuple((a, b) for a, b in data["skipped"]), self.skip, data["step"])
        except UserError as error:
            return str(error)
        return None

    def _files_problem(self, checkpoint: Path, manifest: Manifest) -> str | None:
        """Return what is wrong with a checkpoint's files. Each rank reads its share of them.

        Raises `UserError` where a rank does not see a file that the first sees: that is no fault of the checkpoint.
        """
        mesh, device = self.engine.mesh, self.engine.device
        files = sorted(manifest.files.items())

        if missing := from_first_rank(lambda: sizes_problem(checkpoint, manifest) or "", device):
            return missing
        deadline = time.monotonic() + SIGHT_SECONDS
        mine = dict(files[mesh.rank :: mesh.world])
        while any(size_problem(checkpoint, *item) for item in mine.items()) and time.monotonic() < deadline:
            time.sleep(0.5)
        unseen = "; ".join(problem for item in mine.items() if (problem := size_problem(checkpoint, *item)))
        damaged = "; ".join(problem for item in mine.items() if (problem := file_problem(checkpoint, *item)))
        reports = to_first_rank(json.dumps([unseen, damaged]), device)
        return from_first_rank(lambda: _judge(checkpoint, reports), device) or None

    def _compare_settings(self, checkpoint: Path, manifest: Manifest) -> None:
        """Say which settings differ from the checkpoint's, and refuse those with which it cannot go on."""
        changed = changed_settings(manifest.state.get("settings", {}), self.settings, manifest.step)
        refuse_other_order(changed, checkpoint)
        if changed:
            self.event("settings_changed", step=manifest.step, checkpoint=str(checkpoint), changed=changed)
            self._say(
                f"{checkpoint} was trained with other settings: {sentence(changed)}; the run goes on with its own"
            )

    def _begin(
        self, checkpoint: Path | None, manifest: Manifest | None, began: float, *, warm: bool = False
    ) -> Restored:
        """Put the run's own checkpoints in order, say what was lost, and return what the run begins with."""
        goes_on = manifest is not None and not warm
        step = manifest.step if manifest is not None and goes_on else 0
        own = self.run_dir.checkpoints
        known = manifest.trajectory if manifest and checkpoint and checkpoint.parent == own else ""
        trajectory, source = known or os.urandom(8).hex(), checkpoint if goes_on else None
        course = Course(self.run_dir, step, trajectory, source, frozenset(self.left))
        text = from_first_rank(lambda: json.dumps(put_in_order(course, self.passed, self.fence)), self.engine.device)
        order = json.loads(text)
        self.engine.step = step
        seconds = round(time.monotonic() - began, 3)
        for row in order["set_aside"]:
            self.event("set_aside", **row)
        details = {"passed_over": order["passed_over"], "lost_steps": order["lost_steps"]}
        if warm:
            rows = [row.row() for row in self.passed_in_source]
            self.event("warm_started", step=0, checkpoint=str(checkpoint), passed_over=rows, seconds=seconds)
            for row in self.passed_in_source:
                self._say(f"{row.checkpoint} of the source is passed over: {row.problem}")
        if goes_on:
            self.event("resumed", step=step, checkpoint=str(checkpoint), **details, seconds=seconds)
        elif any(details.values()):
            self.event("began_anew", step=0, checkpoint=None, **details)
        for line in order["lines"]:
            self._say(line)
        state = manifest.state if manifest and goes_on else {}
        return Restored(step, order["trajectory"], state.get("data"), saved=goes_on, health=state.get("health") or {})

    def _say(self, line: str) -> None:
        if self.engine.mesh.is_first:
            print(f"warning: {line}", file=sys.stderr, flush=True)


def _judge(checkpoint: Path, reports: list[str]) -> str:
    """Return what ranks found damaged. Raises `UserError` where some do not see what the first rank sees."""
    unseen, damaged = zip(*(json.loads(report) for report in reports), strict=True)
    if any(unseen):
        clauses = "; ".join(by_rank(unseen, silent=""))
        raise UserError(
            f"not all ranks see {checkpoint} as the first does, {SIGHT_SECONDS:.0f} s after it: {clauses}. "
            "The run directory must be one directory for all nodes: see that it is mounted, and start the run again"
        )
    return "; ".join(problem for problem in damaged if problem)
