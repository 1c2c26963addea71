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

from trainer.contract.exit_codes import EXIT_DONE, EXIT_FAILED
from trainer.contract.plain_json import read_lines, to_json
from trainer.contract.run_dir import RunDir
from trainer.observe.samples import FILE as SAMPLES
from trainer.observe.samples import Samples
from trainer.observe.wandb_alerts import Alert, Stall, alert_of, alerts_of, ended_silently
from trainer.observe.wandb_connection import ENDED_AS, Connection, open_node, reason_of, unreachable
from trainer.observe.wandb_ledger import Ledger, Tail
from trainer.observe.wandb_run import prompts_of
from trainer.observe.wandb_stop import Stop

POLL, LONGEST_PAUSE = 1.0, 60.0  # seconds between looks at the file, and between tries to reach the server
PATIENCE = 5.0  # seconds that a sync waits for another sender
LAST_WORD = 30.0  # seconds that a run which says that it is over may take to write how it ended
ROUNDS = 3  # a sync sends, asks what arrived, and sends the rest


@dataclass(frozen=True)
class Sent:
    """What became of a sync: rows that arrived with it, rows in all, rows that the server still lacks."""

    sent: int
    rows: int
    missing: int
    error: str | None = None
    reached: bool = True  # whether the server took the run


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
    rows, ledger = [*read_lines(run_dir.metrics).rows, *read_lines(run_dir.root / SAMPLES).rows], Ledger(run_dir)
    lacked: list[int] = []  # rows that the server lacked, round by round
    if (refused := unreachable()) is not None:
        return Sent(0, len(rows), len(rows), refused, reached=False)
    try:
        with tempfile.TemporaryDirectory() as directory:
            while len(lacked) < ROUNDS and (not lacked or lacked[-1]):
                connection = Connection(run_dir, Path(directory))
                unsent = ledger.resume(connection.next_number, rows)
                lacked.append(len(unsent))
                connection.send(unsent)
                connection.close(refer=len(lacked) == 1)
    except Exception as error:  # the client raises many kinds, and whoever asked wants the reason
        missing = lacked[-1] if lacked else len(rows)
        return Sent(0, len(rows), missing, reason_of(error), reached=bool(lacked))
    left_over = f"{lacked[-1]} rows did not arrive: the server keeps less than it is sent" if lacked[-1] else None
    return Sent(lacked[0] - lacked[-1], len(rows), lacked[-1], left_over)


def follow(run_dir: RunDir, parent: int, ended: Callable[[float], bool]) -> int:
    """Mirror the run of process `parent` until it has ended. `ended` waits so many seconds and tells whether it has.

    Where the server cannot be reached it is tried again, less and less often. What does not arrive is sent by the run's
    next attempt or by `escala wandb sync`.
    """
    while True:
        with Ledger(run_dir).locked() as mine:  # the sender of an earlier attempt may still hand over its last rows
            if mine:
                return _follow(run_dir, parent, ended)
        if ended(POLL):
            return EXIT_FAILED


def _follow(run_dir: RunDir, parent: int, ended: Callable[[float], bool]) -> int:
    stop = Stop(run_dir, parent)
    with tempfile.TemporaryDirectory() as directory:
        connection = _reached(run_dir, Path(directory), parent, stop, ended)
        if connection is None:
            return EXIT_FAILED
        stop.watch(connection.path)
        ledger, rows, events = Ledger(run_dir), Tail(run_dir.metrics), Tail(run_dir.events)
        stall, samples, over = Stall(time.monotonic), Samples(run_dir, prompts_of(run_dir)), False
        connection.send(ledger.resume(connection.next_number, rows.rows()))
        connection.send(ledger.add(read_lines(run_dir.root / SAMPLES).rows))
        for alert in alerts_of(ledger.new_events(events.rows())):
            connection.alert(alert)
        while not over:
            over = ended(POLL)  # asked before reading: what was written before the end is still read
            stall.see(new := rows.rows())
            connection.send(ledger.add(new))
            news = ledger.new_events(events.rows())
            samples.after(news)
            connection.send(ledger.add(samples.rows()))
            for alert in filter(None, [*map(alert_of, news), None if over else stall.alert()]):
                connection.alert(alert)
        _await_last_word(run_dir, parent)
        _say_last(connection, ledger.new_events(events.rows()), ended_silently(run_dir.read_status()))
        connection.send(ledger.add(samples.rows(wait=True)))
        connection.close()
    if run_dir.read_status() in ENDED_AS:  # asks what arrived, and ends the run in W&B as it has ended here
        return EXIT_DONE if _sync(run_dir).error is None else EXIT_FAILED
    return EXIT_DONE


def _say_last(connection: Connection, events: list[dict[str, object]], silent: Alert | None) -> None:
    for alert in filter(None, [*(alert_of(event) for event in events), silent]):
        connection.alert(alert)


def _await_last_word(run_dir: RunDir, parent: int) -> None:
    """Wait until the status says how the run ended, or its process has gone."""
    until = time.monotonic() + LAST_WORD
    while run_dir.read_status() == "running" and os.getppid() == parent and time.monotonic() < until:
        time.sleep(POLL / 10)


def _reached(
    run_dir: RunDir, directory: Path, parent: int, stop: Stop, ended: Callable[[float], bool]
) -> Connection | None:
    """Return a connection once the server answers; None where it did not before the run's end."""
    pause, over = POLL, ended(0)
    while True:
        try:
            return Connection(run_dir, directory, watched=parent, stop=stop.ask)
        except Exception as error:  # whatever it is, the run goes on; said once
            if pause == POLL:
                print(
                    f"warning: W&B cannot be reached ({reason_of(error)}); `escala wandb sync {run_dir.root}` sends "
                    "what is missing", file=sys.stderr, flush=True,
                )  # fmt: skip
        if over:
            return None
        pause = min(2 * pause, LONGEST_PAUSE)
        over = ended(pause)


def measure(run_dir: RunDir, node: str, parent: int, ended: Callable[[float], bool]) -> int:
    """Send the load of another node until its ranks have ended; give up where W&B cannot be reached."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            close = open_node(run_dir, node, Path(directory), parent)
        except Exception as error:  # the load of a machine is worth no second try
            print(f"warning: W&B has no load of {node}: {reason_of(error)}", file=sys.stderr, flush=True)
            return EXIT_FAILED
        while not ended(POLL):
            pass
        close()
    return EXIT_DONE


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
    parser.add_argument("--node", default="", help="measure this machine alone, under this name")
    given = parser.parse_args()
    run_dir = RunDir(given.run_dir)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if given.once:
        sent = sync(run_dir)
        print(to_json(asdict(sent)), flush=True)
        return EXIT_DONE if sent.error is None else EXIT_FAILED
    os.nice(10)  # steps come first
    if given.node:
        return measure(run_dir, given.node, given.parent, _ended_with(given.parent))
    return follow(run_dir, given.parent, _ended_with(given.parent))


if __name__ == "__main__":
    sys.exit(main())
