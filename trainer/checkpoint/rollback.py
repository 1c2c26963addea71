"""Go back to the last good checkpoint and leave out the data of a bad stretch (`guard.spike: rollback`).

Chowdhery et al. 2022 (PaLM, section 5.1) did so by hand: spikes did not come back with the same data elsewhere. What is
left out is written to `rollbacks.json` before anything else changes, so a run that is killed on the way goes on in the
same way: the order of the data is a function of the configuration, of that list and of the step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from trainer.contract.errors import UserError
from trainer.contract.plain_json import read_object, to_json
from trainer.contract.run_dir import RunDir, write_atomically
from trainer.data.order.skipping import Ranges, data_step, join_ranges, parse_ranges
from trainer.data.read.batches import Batches
from trainer.parallel.first_rank import from_first_rank

if TYPE_CHECKING:
    from trainer.checkpoint.keeper import Keeper


@dataclass(frozen=True)
class Rollback:
    """One rollback: decided after `at` steps, for data of steps `begin` to `end` (end left out) of the data order."""

    at: int
    begin: int
    end: int

    @property
    def range(self) -> str:
        """As `skip_steps` has it."""
        return f"{self.begin}:{self.end}"


def read_rollbacks(run_dir: RunDir, device: torch.device) -> list[Rollback]:
    """Return the rollbacks of earlier attempts, as the first rank reads them. A collective call.

    Raises `UserError` on all ranks for a damaged file: without it the run would read other data.
    """
    return [Rollback(**row) for row in json.loads(from_first_rank(lambda: json.dumps(_read(run_dir)), device))]


def skipped_by(rollbacks: list[Rollback], asked: Ranges) -> Ranges:
    """Return what a run leaves out: what its configuration says, and what it went back for."""
    return parse_ranges([f"{begin}:{end}" for begin, end in asked] + [rollback.range for rollback in rollbacks])


def decide(
    keeper: Keeper,
    batches: Batches,
    rollbacks: list[Rollback],
    *,
    step: int,
    first: int,
    may_read: Callable[[int], None],
) -> Rollback | str:
    """Decide on the first rank what to leave out, and write it down; or return why the run cannot go back.

    `step` steps are done, and the data of training steps `first` to `step` are to be left out. `may_read` raises
    `UserError` where the run may not read so many steps more than it has. A collective call.
    """
    keeper.writer.wait()

    def say() -> str:
        found = Rollback(step, data_step(first, batches.skipped), data_step(step - 1, batches.skipped) + 1)
        if not keeper.can_roll_back(first):
            return json.dumps(f"it has no checkpoint of at most {first} steps: set checkpoint.every below that")
        try:
            may_read(found.end - found.begin)
        except UserError as error:
            return json.dumps(str(error))
        rows = [asdict(rollback) for rollback in [*rollbacks, found]]
        write_atomically(keeper.run_dir.rollbacks, to_json({"rollbacks": rows}, indent=2) + "\n")
        return json.dumps(asdict(found))

    said = json.loads(from_first_rank(say, keeper.engine.device))
    return said if isinstance(said, str) else Rollback(**said)


def go_back(keeper: Keeper, batches: Batches, rollback: Rollback) -> int:
    """Load the checkpoint and change the order of the data; return the number of steps that are done.

    A collective call.
    """
    step = keeper.roll_back(skipped_by([rollback], keeper.skip))
    assert keeper.state is not None
    read = tuple((begin, end) for begin, end in keeper.state["skipped"])
    batches.skip(join_ranges(read, keeper.skip, step))
    return step


def _read(run_dir: RunDir) -> list[dict[str, int]]:
    try:
        rows = read_object(run_dir.rollbacks, "rollbacks")["rollbacks"]
        return [asdict(Rollback(int(row["at"]), int(row["begin"]), int(row["end"]))) for row in rows]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{run_dir.rollbacks} is damaged: it says which data the run left out. Mend it, or begin the run in "
            "another directory"
        ) from None
