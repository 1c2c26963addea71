"""Health rules: what a run does about a spike (`guard.spike`).

    off        looks for none
    continue   records each spike as an event
    skip       does not apply the update of that step, on any rank; after `max_skips` in a row the run ends as diverged
    rollback   after `patience` spikes in a row, goes back to the last good checkpoint and leaves the data out
    stop       after `patience` spikes in a row, ends the run as diverged

`skip` is decided inside the step, before the update, by limits that all ranks hold. The others follow from what the
first rank sees, and travel with the loss of the next step (`trainer/engine/agreement.py`): all ranks act at one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal, Protocol

from trainer.guard.spikes import Limits, Spikes

Rule = Literal["off", "continue", "skip", "rollback", "stop"]
ROLL_BACK, HALT = "roll_back", "halt"


class Settings(Protocol):
    """The settings of `guard` that rule spikes."""

    @property
    def spike(self) -> Rule:
        """What to do after a spike."""

    @property
    def sigma(self) -> float:
        """How many standard deviations make one."""

    @property
    def window(self) -> int:
        """Of how many steps before a step its mean and deviation are taken."""

    @property
    def patience(self) -> int:
        """How many spikes in a row end the run or roll it back."""


class Health:
    """The rule of one run, on one rank. `ask` asks all ranks for ROLL_BACK or HALT; `event` records."""

    def __init__(self, settings: Settings, *, ask: Callable[[str], None], event: Callable[..., None]) -> None:
        self.settings, self._ask, self._event = settings, ask, event
        self._spikes = Spikes(settings.window, settings.sigma) if settings.spike != "off" else None
        self.in_a_row = 0  # spikes

    def limits(self) -> Limits | None:
        """Return the limits above which the next step is not applied; None where this rule skips none."""
        return self._spikes.limits() if self._spikes is not None and self.settings.spike == "skip" else None

    def after(self, step: int, loss: float, grad_norm: float) -> None:
        """Judge a step: record a spike, and ask for what the rule says. Every rank calls it after every step."""
        if self._spikes is None:
            return
        found = self._spikes.add(loss, grad_norm)
        self.in_a_row = self.in_a_row + 1 if found else 0
        for spike in found:
            numbers = {key: _rounded(value) for key, value in asdict(spike).items()}
            action = self.settings.spike
            self._event("spike", step=step, **numbers, in_a_row=self.in_a_row, action=action)
        if found:
            self._ask_if_due()

    def _ask_if_due(self) -> None:
        what = {"rollback": ROLL_BACK, "stop": HALT}.get(self.settings.spike)
        if what is not None and self.in_a_row >= self.settings.patience:
            self._ask(what)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold for the same decisions after a restart, as plain JSON values."""
        return {} if self._spikes is None else {**self._spikes.state(), "in_a_row": self.in_a_row}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on as a checkpoint says."""
        if self._spikes is not None:
            self._spikes.load(state)
            self.in_a_row = int(state.get("in_a_row", 0))
            self._ask_if_due()  # the run ended between a step that asked and the next, which all would have heeded


def _rounded(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value
