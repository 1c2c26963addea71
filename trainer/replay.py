"""Take one step of a run again, with the batch and in the state that it had: `python -m trainer.replay --of RUN ...`.

Every rank of a world like the run's starts it, with a directory of its own for what it writes (`--run-dir`). It loads
the newest checkpoint before the step, or begins as the run did, trains up to the step, and takes it. Where that is not
finite, it says which module made it so. The run itself is only read.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trainer.checkpoint.manifest import list_checkpoints, step_of
from trainer.config.load import load_written
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR
from trainer.contract.hiding import traceback_text, without_secrets
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import RunDir
from trainer.engine.engine import StepOutcome
from trainer.engine.non_finite import sentence, trace_step
from trainer.guard.fence import Fence
from trainer.loop.run import Run, lr_at
from trainer.loop.steps import one_step
from trainer.parallel.start import world_from_environment
from trainer.session import open_run


def main(arguments: list[str] | None = None) -> int:
    """Run one rank and return its exit code."""
    parser = argparse.ArgumentParser(description="One rank of the replay of a step.")
    parser.add_argument("--of", type=Path, required=True, help="directory of the run")
    parser.add_argument("--run-dir", type=Path, required=True, help="where the replay writes")
    parser.add_argument("--step", type=int, required=True, help="as the record counts: the first is 1")
    asked = parser.parse_args(arguments)
    try:
        replay(RunDir(asked.of), RunDir(asked.run_dir), asked.step)
    except UserError as error:
        print(without_secrets(f"error: {error}"), file=sys.stderr)
        return EXIT_USER_ERROR
    except Exception as error:
        print(traceback_text(error), end="", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_DONE


def replay(of: RunDir, scratch: RunDir, step: int) -> None:
    """Take a step again; leave the event `replayed` in the scratch directory. A collective call."""
    if world_from_environment()[0] == 0:  # the others take from the first rank what it reads
        _take_along(of, scratch)
    config = for_replay(load_written(of.config), of, step)
    session = open_run(config, scratch, Fence.from_environment(scratch))
    run = session.run
    run.reads_late = False  # each step is known before the next is taken
    if not run.step < step <= run.plan.steps:
        raise UserError(f"step {step} cannot be taken again: the run has steps {run.step + 1} to {run.plan.steps}")
    began = run.step
    known = {r["step"]: r["loss"] for r in rows_of(of.metrics, "kind", "step", "loss") if r["kind"] == "train"}
    same = different = 0
    while run.step < step - 1:
        outcome = _take(run)
        same += known.get(run.step) == outcome.loss
        different += run.step in known and known[run.step] != outcome.loss
    outcome = _take(run)
    found: dict[str, Any] = {} if outcome.finite else trace_step(run.engine, run.batches.step(step - 1), _lr(run))
    says = sentence(found) if found else f"it is finite: loss {outcome.loss:.6g}, gradient norm {outcome.grad_norm:.6g}"
    losses = {"loss": outcome.loss, "grad_norm": outcome.grad_norm, "same_losses": same, "other_losses": different}
    run.observers.event("replayed", step=step, from_step=began, **losses, **found, says=says)
    session.close()
    run.observers.finish(EXIT_DONE)
    dist.destroy_process_group()


def for_replay(config: RunConfig, of: RunDir, step: int) -> RunConfig:
    """Return the run's configuration with the checkpoint to begin at, and without all that comes between two steps.

    Blocks are not compiled: hooks inside of them are not called then.
    """
    checkpoint = config.checkpoint.model_copy(update={"every": None, "minutes": None, "keep_at": ()})
    before = [path for path in list_checkpoints(of.checkpoints) if (step_of(path) or 0) < step]
    if before:
        checkpoint = checkpoint.model_copy(update={"load": "always", "source": str(before[0].resolve())})
    return config.model_copy(
        update={
            "checkpoint": checkpoint,
            "evaluation": config.evaluation.model_copy(update={"every": None}),
            "tracking": config.tracking.model_copy(update={"wandb": "disabled", "profile_steps": ()}),
            "parallel": config.parallel.model_copy(update={"compile": False}),
        }
    )


def _take(run: Run) -> StepOutcome:
    """Take the next step as the loop does: what the health rules skipped is skipped again."""
    outcome = one_step(run)
    run.health.after(run.step, outcome.loss, outcome.grad_norm)
    return outcome


def _lr(run: Run) -> float:
    return lr_at(run.config, run.plan, run.step - 1)


def _take_along(of: RunDir, scratch: RunDir) -> None:
    """Have the replay read the data that the run reads: its shards, and what it went back for and left out."""
    for path in (of.data, of.rollbacks):
        if path.exists():
            shutil.copyfile(path, scratch.root / path.name)


if __name__ == "__main__":
    sys.exit(main())
