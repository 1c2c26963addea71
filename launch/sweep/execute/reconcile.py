"""Run a sweep: observe, decide, act, until nothing more can be done from here. Running it again goes on from there."""

from __future__ import annotations

from collections.abc import Callable

from launch.sweep.execute.act import Hands
from launch.sweep.execute.decide import Decision, Limits, Then, decide
from launch.sweep.execute.observe import observe

LOOK_EVERY = 0.5  # seconds, where nothing happens earlier


def reconcile(hands: Hands, limits: Limits, show: Callable[[Decision], None]) -> Decision:
    """Start what is missing, take in what has ended, and return the last decision.

    `show` is called in each round, when everything that ended is written and before anything is started. A decision to
    refuse is returned before anything is written.
    """
    while True:
        decision = decide(observe(hands.cells, hands.past()), limits)
        if decision.then is Then.REFUSE:
            return decision
        hands.write(decision)
        show(decision)
        if decision.start:
            hands.start(decision.start)
        if decision.then is not Then.WAIT:
            return decision
        assert hands.place.driver is not None, "nobody waits for a queue"
        hands.place.driver.wait(LOOK_EVERY)
