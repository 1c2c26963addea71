"""How far a run is off its expected curve: a value in the row of each recorded step, and one event when it leaves.

The curve is `expected.json` of the run directory. A run without one records nothing here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from trainer.contract.errors import UserError
from trainer.contract.expected import PARAMETER_NORMS, ExpectedCurve, norm_of
from trainer.contract.leaving import DRIFT, LEFT_BAND, LEVEL, NORM, OTHERS, Follower, GrowthFollower, Off
from trainer.contract.plain_json import read_lines
from trainer.contract.run_dir import RunDir
from trainer.observe.metrics import TRAIN
from trainer.observe.observers import Row

Kind = dict[str, Any]  # settings, as plain JSON values
EARLY = 0.15  # of a run: what leaves by then was wrong from the beginning


class LiveLaw:
    """Follows one run. `different` says in what it differs from the runs behind its curve.

    `until`: see `Follower`.
    """

    def __init__(
        self, curve: ExpectedCurve, event: Callable[..., None], different: str = "", until: float = math.inf
    ) -> None:
        self.curve, self.different, self._event = curve, different, event
        self._begin(until)

    def _begin(self, until: float) -> None:
        self._follower, self._left = Follower(self.curve, until=until), False
        self._norms = GrowthFollower(self.curve) if self.curve.growth is not None else None

    def follow(self, rows: Iterable[Row]) -> None:
        """Take in the steps that earlier attempts recorded: the run goes on where it stood, and says nothing twice."""
        for row in rows:
            if isinstance(loss := row.get("loss"), int | float):
                self._left |= self._follower.see(row["step"], loss).test is not None
                self._left |= self._too_far(self._norm_off(row["step"], row.get(PARAMETER_NORMS)))

    def go_back(self, rows: Iterable[Row], until: float) -> None:
        """Forget the steps that the run takes back, and go on without some data; `rows` are those that stay."""
        self._begin(until)
        self.follow(rows)

    def values(self, step: int, loss: float, norms: dict[str, float] | None = None) -> dict[str, float | None]:
        """Return what the row of a step has of this, and tell of the run's leaving, once, at its step.

        `norms`: of its parameters after the step by their kind, where they were measured.
        """
        off, norm_off = self._follower.see(step, loss), self._norm_off(step, norms)
        if self._too_far(norm_off) and off.test is None:
            off = replace(off, test=NORM)
        if off.test is not None and not self._left:
            self._left = True
            self._tell(off, loss, norm_off)
        values: dict[str, float | None] = {"off": None if math.isnan(off.off) else round(off.off, 3)}
        return values if norm_off is None else {**values, "norm_off": round(norm_off, 3)}

    def _norm_off(self, step: int, norms: object) -> float | None:
        norm = norm_of(norms)
        return None if self._norms is None or norm is None else self._norms.see(step, norm)

    def _too_far(self, norm_off: float | None) -> bool:
        return norm_off is not None and self.curve.growth is not None and abs(norm_off) > self.curve.growth.limit

    def _tell(self, off: Off, loss: float, norm_off: float | None) -> None:
        limits, growth = self.curve.limits, self.curve.growth
        reasons = likely(off, self.curve, self.different)
        value, limit = {
            LEVEL: (off.level, limits.level),
            DRIFT: (off.drift, limits.drift),
            NORM: (norm_off or 0.0, growth.limit if growth is not None else 0.0),
        }[off.test or LEVEL]
        self._event(
            LEFT_BAND, step=off.step, loss=loss, expected=off.expected, off=off.off, level=off.level, drift=off.drift,
            norm_off=norm_off, test=off.test, limit=limit, reasons=reasons,
        )  # fmt: skip
        what = "norm of its matrices" if off.test == NORM else "loss"
        print(
            f"warning: step {off.step}: the {what} has left its expected band, {'above' if value > 0 else 'below'} it "
            f"({off.test} {value:+.1f}, limit {limit:.1f}); loss {loss:.4f}, expected {off.expected:.4f} "
            f"({off.off:+.1f} standard deviations). Likely: {'; '.join(reasons)}",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def likely(off: Off, curve: ExpectedCurve, different: str = "") -> list[str]:
    """Return the likely kinds of reason: settings that the finished runs lacked, then by the test and the time."""
    named = [f"{OTHERS}: {different}"] if different else []
    if off.test == NORM:
        kinds = ["weight decay", "learning rate or warm-up"]
    elif off.test == DRIFT:
        kinds = [
            "the data from about here on (mixture, order, a damaged source)",
            "a spike of the learning rate or loss",
        ]
    elif off.step <= EARLY * curve.total_steps:
        kinds = [
            "learning rate or warm-up",
            "data: another mixture, shuffled targets, another tokenizer",
            "initial values",
        ]
    else:
        kinds = [
            "learning rate or weight decay",
            "data: another mixture, repeated or damaged text",
            "batch or schedule",
        ]
    return [*named, *kinds]


def open_live_law(
    run_dir: RunDir,
    kind: Kind,
    total_steps: int,
    event: Callable[..., None],
    differ: Callable[[ExpectedCurve], str],
    until: float = math.inf,
) -> LiveLaw | None:
    """Return what follows the run of a directory, as far as it is recorded; None where it has no expected curve.

    `kind` is its `likeness`, and `differ` says in what it differs from the runs behind a curve:
    `trainer/plan/likeness.py`, a room above this one. A curve that cannot be read, or is of a run of another length,
    batch or schedule, is said and not used: it ends no run.
    """
    if not run_dir.expected.exists():
        return None
    try:
        curve = ExpectedCurve.load(run_dir.expected)
        curve.refuse_other(kind, total_steps)
    except (UserError, OSError) as error:
        print(f"warning: {error}; training goes on without it", file=sys.stderr, flush=True)
        return None
    live = LiveLaw(curve, event, differ(curve), until)
    if live.different:
        print(f"warning: {OTHERS}: {live.different}", file=sys.stderr, flush=True)
    live.follow(row for row in read_lines(run_dir.metrics).rows if row.get("kind") == TRAIN)
    return live
