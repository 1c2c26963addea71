"""Sends the record of one run to W&B: `python -m trainer.observe.wandb_sender RUN_DIR`.

It is a process of its own, so that no server and no client stands in the way of a step or of the end of a run. It
follows metrics.jsonl until its parent has ended or its standard input is closed. With `--once` it sends what is missing
now and prints, as one JSON object, what became of it. All it knows comes from the run directory.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.contract.exit_codes import EXIT_DIVERGED, EXIT_DONE, EXIT_FAILED
from trainer.contract.hiding import without_secrets
from trainer.contract.plain_json import read_lines, to_json
from trainer.contract.run_dir import RunDir, Status
from trainer.observe import wandb_run
from trainer.observe.metrics import AXES
from trainer.observe.wandb_ledger import Ledger, Tail

INIT_TIMEOUT, FINISH_TIMEOUT = 15.0, 30.0  # seconds; nobody waits for them but this process
POLL, LONGEST_PAUSE = 1.0, 60.0  # seconds between looks at the file, and between tries to reach the server
PATIENCE = 5.0  # seconds that a sync waits for another sender
ROUNDS = 3  # a sync sends, asks what arrived, and sends the rest
_CODES = {Status.DONE: EXIT_DONE, Status.FAILED: EXIT_FAILED, Status.DIVERGED: EXIT_DIVERGED}


@dataclass(frozen=True)
class Sent:
    """What became of a sync: rows that arrived with it, rows in all, rows that the server still lacks."""

    sent: int
    rows: int
    missing: int
    error: str | None = None


class Connection:
    """One W&B run, resumed where the server's history ends. `close` it: only that hands over the last rows."""

    def __init__(self, run_dir: RunDir, directory: Path) -> None:
        import wandb

        self._flops = wandb_run.flops_per_token(run_dir)
        self._defined: set[str] = set()
        self._run_dir = run_dir
        final = run_dir.read_status() in _CODES
        settings = wandb.Settings(
            init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT, silent=True, console="off", disable_git=True,
            disable_code=True, save_code=False, x_disable_stats=True, x_disable_meta=True, x_save_requirements=False,
            x_disable_machine_info=True, x_update_finish_state=final,
        )  # fmt: skip
        try:
            self._run = wandb.init(
                settings=settings, mode="online", dir=str(directory), resume="allow", **wandb_run.arguments(run_dir)
            )
        except Exception:
            wandb.teardown()  # the failed start still holds the run's id
            raise
        self.next_number = int(self._run.starting_step)
        for axis in (*AXES, wandb_run.FLOPS):
            self._run.define_metric(axis, hidden=axis != "step")
        self._run.define_metric("*", step_metric="step")

    def send(self, rows: list[tuple[int, dict[str, Any]]]) -> None:
        """Queue rows under their numbers. Does not wait for the server."""
        for number, row in rows:
            values = wandb_run.values_of(row, self._flops)
            for name in values.keys() - self._defined:
                self._define(name)
            self._run.log(values, step=number, commit=True)

    def _define(self, name: str) -> None:
        self._defined.add(name)
        metric = wandb_run.metric_of(name)
        if metric is not None and metric.better:
            best = "min" if metric.better == "lower" else "max"
            self._run.define_metric(name, step_metric="step", summary=f"{best},last")

    def close(self) -> None:
        """Hand over what is queued, at most for the time-out, with the final numbers where the run is over."""
        self._run.summary.update(wandb_run.summary_of(self._run_dir))
        self._run.finish(exit_code=_CODES.get(self._run_dir.read_status() or Status.RUNNING, EXIT_FAILED))


def sync(run_dir: RunDir, *, patience: float = PATIENCE) -> Sent:
    """Send all rows that the server lacks, and ask it what arrived. What the client raises is returned as `error`."""
    until = time.monotonic() + patience
    while True:
        with Ledger(run_dir).locked() as mine:
            if mine:
                return _sync(run_dir)
        if time.monotonic() > until:
            return Sent(0, 0, 0, "its own run sends it now: ask again when that has ended")
        time.sleep(POLL / 4)


def _sync(run_dir: RunDir) -> Sent:
    rows, ledger = read_lines(run_dir.metrics).rows, Ledger(run_dir)
    lacked: list[int] = []  # rows that the server lacked, round by round
    try:
        with tempfile.TemporaryDirectory() as directory:
            while len(lacked) < ROUNDS and (not lacked or lacked[-1]):
                connection = Connection(run_dir, Path(directory))
                unsent = ledger.resume(connection.next_number, rows)
                lacked.append(len(unsent))
                connection.send(unsent)
                connection.close()
    except Exception as error:  # the client raises many kinds, and whoever asked wants the reason
        return Sent(0, len(rows), lacked[-1] if lacked else len(rows), _reason(error))
    left_over = f"{lacked[-1]} rows did not arrive: the server keeps less than it is sent" if lacked[-1] else None
    return Sent(lacked[0] - lacked[-1], len(rows), lacked[-1], left_over)


def follow(run_dir: RunDir, ended: Callable[[float], bool]) -> int:
    """Mirror a run until it has ended. `ended` waits at most so many seconds and tells whether it has.

    Where the server cannot be reached it is tried again, less and less often. What does not arrive is sent by the run's
    next attempt or by `escala wandb sync`.
    """
    while True:
        with Ledger(run_dir).locked() as mine:  # the sender of an earlier attempt may still hand over its last rows
            if mine:
                return _follow(run_dir, ended)
        if ended(POLL):
            return EXIT_FAILED


def _follow(run_dir: RunDir, ended: Callable[[float], bool]) -> int:
    with tempfile.TemporaryDirectory() as directory:
        connection = _reached(run_dir, Path(directory), ended)
        if connection is None:
            return EXIT_FAILED
        ledger, tail, over = Ledger(run_dir), Tail(run_dir.metrics), False
        connection.send(ledger.resume(connection.next_number, tail.rows()))
        while not over:
            over = ended(POLL)  # asked before reading: what was written before the end is still read
            connection.send(ledger.add(tail.rows()))
        connection.close()
    return EXIT_DONE


def _reached(run_dir: RunDir, directory: Path, ended: Callable[[float], bool]) -> Connection | None:
    """Return a connection once the server answers; None where it did not before the run's end."""
    pause, over = POLL, ended(0)
    while True:
        try:
            return Connection(run_dir, directory)
        except Exception as error:  # whatever it is, the run goes on; said once
            if pause == POLL:
                print(
                    f"warning: W&B cannot be reached ({_reason(error)}); `escala wandb sync {run_dir.root}` sends what "
                    "is missing", file=sys.stderr, flush=True,
                )  # fmt: skip
        if over:
            return None
        pause = min(2 * pause, LONGEST_PAUSE)
        over = ended(pause)


def _reason(error: Exception) -> str:
    return without_secrets(" ".join(str(error).split()) or type(error).__name__)[:300]


def _ended_with(parent: int) -> Callable[[float], bool]:
    """Return what waits for the end of the process that started this one: its pipe closes, or it is gone."""

    def ended(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while True:
            left = max(0.0, until - time.monotonic())
            readable, _, _ = select.select([sys.stdin], [], [], min(left, POLL))
            if readable or os.getppid() != parent:
                return True
            if left <= POLL:
                return False

    return ended


def main() -> int:
    """Send one run's record and return the exit code."""
    parser = argparse.ArgumentParser(description="Send the record of one run to W&B.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--once", action="store_true", help="send what is missing now, print what became of it, end")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process whose end is the run's")
    given = parser.parse_args()
    run_dir = RunDir(given.run_dir)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if given.once:
        sent = sync(run_dir)
        print(to_json(asdict(sent)), flush=True)
        return EXIT_DONE if sent.error is None else EXIT_FAILED
    os.nice(10)  # steps come first
    return follow(run_dir, _ended_with(given.parent))


if __name__ == "__main__":
    sys.exit(main())
