"""Which events of a run are alerts in W&B, and what these say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.contract.leaving import LEFT_BAND, NORM, OTHERS
from trainer.observe.observers import Row

INFO, WARN, ERROR = "INFO", "WARN", "ERROR"
MOST_LATE = 5  # alerts of a time when nobody was sending
STALL_STEPS, STALL_SECONDS = 20, 120.0  # without a row for so many usual steps, and for so long


@dataclass(frozen=True)
class Alert:
    """A title, a sentence and how bad it is."""

    title: str
    text: str
    level: str


def _spike(row: Row) -> str:
    return (
        f"step {row['step']}: {row['signal']} {row['value']:.4g} is {row['deviations']:.1f} standard deviations above "
        f"the median {row['median']:.4g} of the last steps; guard.spike is {row['action']}"
    )


def _left_band(row: Row) -> str:
    reasons = "; ".join(map(str, row.get("reasons") or ()))
    norm = f", norm of its matrices {row['norm_off']:+.1f} standard deviations off" if row.get("test") == NORM else ""
    return (
        f"step {row['step']}: loss {row['loss']:.4f}, expected {row['expected']:.4f}{norm}. Likely: "
        f"{reasons or 'unknown'}"
    )


_EVENTS: dict[str, tuple[str, str, Callable[[Row], str]]] = {
    "spike": ("spike", WARN, _spike),
    "rolled_back": (
        "rolled back", WARN,
        lambda row: f"spikes at step {row['at']}: on from step {row['step']} without the data of {row['skipped']}",
    ),
    "started": ("other settings", WARN, lambda row: f"{OTHERS}: {row['unlike_expected']}"),
    LEFT_BAND: ("left the band", WARN, _left_band),
    "failed": ("failed", ERROR, lambda row: str(row.get("error") or "it left no word")),
    "diverged": ("failed: diverged", ERROR, lambda row: str(row.get("error") or "loss or gradient is no number")),
    "done": ("finished", INFO, lambda row: f"after step {row.get('step')}"),
}  # fmt: skip


def alert_of(event: Row) -> Alert | None:
    """Return the alert that an event is; None for most, and for one that lacks what its sentence needs."""
    found = _EVENTS.get(str(event.get("event")))
    if found is None:
        return None
    title, level, sentence = found
    try:
        return Alert(title, sentence(event), level)
    except (KeyError, TypeError, ValueError):
        return None


def alerts_of(events: Sequence[Row]) -> list[Alert]:
    """Return the newest alerts of events that came while nobody was sending, in order."""
    return [alert for event in events if (alert := alert_of(event)) is not None][-MOST_LATE:]


class Stall:
    """Tells when a run stands still: no row for many usual steps. Fed with rows as they come."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._last, self._usual, self._told = clock, 0.0, 0.0, False

    def see(self, rows: Sequence[Row]) -> None:
        """Take in rows, perhaps none."""
        times = [row["step_seconds"] for row in rows if isinstance(row.get("step_seconds"), int | float)]
        if rows:
            self._last, self._told = self._clock(), False
        self._usual = float(times[-1]) if times else self._usual

    def alert(self) -> Alert | None:
        """Return the alert once where the run has been silent for too long."""
        silent = self._clock() - self._last
        if self._told or not self._last or silent < max(STALL_SECONDS, STALL_STEPS * self._usual):
            return None
        self._told = True
        return Alert("stalled", f"no row for {silent:.0f} s; a step takes {self._usual:.3g} s as a rule", ERROR)


def ended_silently(status: Any) -> Alert | None:
    """Return the alert for a run whose process has gone while its status says that it runs."""
    if status != "running":
        return None
    return Alert("failed", "its process has gone and left no word; `escala why` looks for the reason", ERROR)
