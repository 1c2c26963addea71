"""Run a sweep: observe, decide, act, until nothing more can be done from here. Running it again goes on from there."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console

from launch.run.run_state import DEAD, state_of
from launch.sweep.execute.act import start, write
from launch.sweep.execute.decide import Decision, Limits, Then, decide, stand
from launch.sweep.execute.observe import observe
from launch.sweep.execute.progress import Watcher
from launch.sweep.execute.underway import Underway
from trainer.contract.durations import duration

LOOK_EVERY = 0.5  # seconds, where nothing happens earlier


def reconcile(sweep: Underway, limits: Limits, show: Callable[[Decision], None]) -> Decision:
    """Start what is missing, take in what has ended, and return the last decision.

    `show` is called in each round, when everything that ended is written and before anything is started. A decision to
    refuse is returned before anything is written.
    """
    while True:
        decision = decide(observe(sweep), limits)
        if decision.then is Then.REFUSE:
            return decision
        write(sweep, decision)
        show(decision)
        if decision.start:
            start(sweep, decision.start)
        if decision.then is not Then.WAIT:
            return decision
        assert sweep.place.driver is not None, "nobody waits for a scheduler"
        sweep.place.driver.wait(LOOK_EVERY)


def drive(underway: Underway, limits: Limits, watcher: Watcher, console: Console) -> Decision:
    """Run the cells from here until all have ended."""

    def show(decision: Decision) -> None:
        for one in underway.cells:
            if one.id in decision.start and (state := state_of(one.run_dir)).word == DEAD:
                console.print(f"{one.id} {state.reason}", highlight=False, markup=False, soft_wrap=True)
        watcher.update(decision.cells)

    assert underway.place.driver is not None
    with underway.place.driver, watcher:
        began = time.monotonic()
        decision = reconcile(underway, limits, show)
    stands, started = stand(decision.cells, limits), len(underway.started)
    if decision.then is Then.REFUSE:
        return decision
    if started:
        took = duration(time.monotonic() - began)
        console.print(f"trained {started} {'run' if started == 1 else 'runs'} in {took}\n", highlight=False)
    elif not stands.failed and not stands.diverged:
        console.print("every cell is done: nothing to train\n")
    else:
        failed, diverged = len(stands.failed), len(stands.diverged)
        console.print(f"nothing to train: {failed} cells failed and {diverged} diverged before\n")
    return decision
