"""One rank of one run. Every rank of the world starts it: `python -m trainer.train --run-dir DIR`.

The directory holds config.yaml, written by the launcher. What a run leaves there: `trainer/contract/run_dir.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch.distributed as dist

from trainer.checkpoint.keeper import SaveError
from trainer.config.load import load_written
from trainer.contract.errors import UserError, os_error_text
from trainer.contract.exit_codes import (
    EXIT_DIVERGED,
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_FENCED,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
)
from trainer.contract.hiding import traceback_text, without_secrets
from trainer.contract.plain_json import to_json
from trainer.contract.provenance import provenance
from trainer.contract.run_dir import RunDir, Status, write_atomically
from trainer.engine.memory_parts import leave_memory
from trainer.guard.fence import Fence
from trainer.guard.position import record_collectives, write_position
from trainer.loop.run import DivergedError
from trainer.loop.steps import train
from trainer.node.stacks import also_on_signal
from trainer.parallel.start import world_from_environment
from trainer.session import Session, open_run

EXIT_OF = {Status.DONE: EXIT_DONE, Status.PREEMPTED: EXIT_PREEMPTED, Status.DIVERGED: EXIT_DIVERGED}


def main(arguments: list[str] | None = None) -> int:
    """Run one rank and return its exit code."""
    parser = argparse.ArgumentParser(description="One rank of one training run.")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory that holds config.yaml")
    run_dir = RunDir(parser.parse_args(arguments).run_dir)
    first = world_from_environment()[0] == 0
    fence = Fence.from_environment(run_dir)
    record_collectives()
    also_on_signal(lambda: _say_where(fence, "asked by SIGUSR2"))
    try:
        fence.check()
        return EXIT_OF[run(run_dir, fence)]
    except Exception as error:
        return _end_badly(error, run_dir, fence, first=first)


def _say_where(fence: Fence, why: str) -> None:
    write_position(fence.run_dir.logs(fence.attempt), world_from_environment()[0], why)


def _end_badly(error: Exception, run_dir: RunDir, fence: Fence, *, first: bool) -> int:
    """Say why, and return the exit code. Whatever went wrong in an attempt that was replaced, this is why."""
    if not fence.open():
        print(f"error: {fence.sentence()}", file=sys.stderr)
        return EXIT_FENCED
    _say_where(fence, "it ended with an error")
    said = _sentence(error)
    if said is None:
        print(traceback_text(error), end="", file=sys.stderr)
    else:
        print(without_secrets(f"error: {said}"), file=sys.stderr)
    _fail(run_dir, first, without_secrets(said or f"{type(error).__name__}: {error}"))
    return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_FAILED


def _sentence(error: Exception) -> str | None:
    """Return what to say of an error of the user's world; None for one that is ours and wants its traceback."""
    if isinstance(error, UserError | SaveError):
        return str(error)
    return os_error_text(error) if isinstance(error, OSError) and error.errno is not None else None


def run(run_dir: RunDir, fence: Fence) -> Status:
    """Train as the directory's configuration says, and return how it ended."""
    session = open_run(load_written(run_dir.config), run_dir, fence)
    session.run.observers.event(
        "started",
        step=session.run.step,
        layout=session.run.plan.layout,
        data_hash=session.manifest.data_hash,
        train_tokens=session.manifest.tokens("train"),
        unigram_entropy=session.manifest.unigram_entropy,
        **_unlike_expected(session),
        **provenance(),
    )
    try:
        status, error = _train(session)
    except Exception as failure:
        leave_memory(session.run.engine, run_dir.logs(fence.attempt), failure)
        raise
    _finish(session, status, error)
    if dist.is_initialized():
        dist.destroy_process_group()
    return status


def _unlike_expected(session: Session) -> dict[str, str]:
    """Return in what the run differs from those behind its expected curve, where it has one and differs."""
    live = session.run.live_law
    return {"unlike_expected": live.different} if live is not None and live.different else {}


def _train(session: Session) -> tuple[Status, str | None]:
    try:
        done = train(session.run)
    except DivergedError as error:
        print(f"error: diverged: {error}", file=sys.stderr, flush=True)
        return Status.DIVERGED, str(error)
    return (Status.DONE if done else Status.PREEMPTED), None


def _finish(session: Session, status: Status, error: str | None) -> None:
    """Wait for checkpoints in flight, write the result, and tell everybody how it ended: the status comes last."""
    session.close()
    observers = session.run.observers
    came = result(session) if status is Status.DIVERGED else {"step": session.run.step}
    observers.event(status.value, error=error, **came)
    observers.finish(EXIT_OF[status])
    if not observers.active:
        return
    if status is Status.DONE:  # whatever cannot be written now, the next start writes: the last checkpoint is there
        write_atomically(session.run_dir.result, to_json(result(session), indent=2) + "\n")
        session.run_dir.write_status(status)
        return
    _write_status(session.run_dir, status)


def result(session: Session) -> dict[str, object]:
    """Return the final numbers of a run, from which its row in the ledger is made.

    `train_loss` is the last one that was finite.
    """
    run = session.run
    left_out = run.batches.left_out()
    return {
        "step": run.step,
        "tokens": run.plan.tokens_before(run.step),
        "train_loss": run.train_loss,
        "tokens_per_second": run.throughput.overall,
        "seconds": time.monotonic() - session.began,
        **run.wall_time.row(run.throughput.waited_seconds),
        "unique_tokens": session.manifest.tokens("train") - sum(left_out.values()),
        "unigram_entropy": session.manifest.unigram_entropy,
        "tokenizer_hash": session.manifest.tokenizer_hash,
        "data_hash": session.manifest.data_hash,
        "sources_left_out": left_out,
        "skipped_steps": [list(pair) for pair in run.batches.skipped],
        "evaluations": [evaluation.row() for evaluation in run.evaluator.newest],
    }


def _fail(run_dir: RunDir, first: bool, message: str) -> None:
    if not first or not run_dir.root.is_dir():
        return
    try:
        run_dir.record_event("failed", error=message)
    except OSError as failure:
        print(f"warning: {os_error_text(failure)}", file=sys.stderr)
    _write_status(run_dir, Status.FAILED)


def _write_status(run_dir: RunDir, status: Status) -> None:
    """Write how the run ended. Where that cannot be written, the exit code says it, and the launcher writes it down."""
    try:
        run_dir.write_status(status)
    except OSError as failure:
        print(f"warning: {os_error_text(failure)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
