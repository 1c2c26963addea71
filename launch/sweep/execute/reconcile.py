"""Run a sweep: observe, decide, act, until nothing more can be done from here. Running it again goes on from there."""

from __future__ import annotations

from collections.abc import Callable

from launch.sweep.execute.act import start, write
from launch.sweep.execute.decide import Decision, Limits, Then, decide
from launch.sweep.execute.observe import observe
from launch.sweep.execute.underway import Underway

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
