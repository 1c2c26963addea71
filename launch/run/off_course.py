"""Whether a run is off the course that finished runs foretold for it, from the events that say so."""

from __future__ import annotations

from typing import Any

from launch.run.newest_step import newest_event
from trainer.contract.leaving import LEFT_BAND, OTHERS
from trainer.contract.run_dir import RunDir

BACK = ("rolled_back", "began_anew")
HELPS = "compare its settings and its data with those of the finished runs"
OTHERS_HELP = "give it their settings and data, or train a ladder with its own: its curve says where those would end"


def departure(run_dir: RunDir) -> dict[str, Any] | None:
    """Return the event of a run's leaving its band; None where it did not, or has gone back since."""
    row = newest_event(run_dir, LEFT_BAND, *BACK, having="step") if run_dir.expected.exists() else None
    return row if row is not None and row["event"] == LEFT_BAND else None


def left_band(run_dir: RunDir) -> str:
    """Return where a run left its expected band and the likely reasons; "" where it is inside."""
    row = departure(run_dir)
    if row is None:
        return ""
    reasons = row.get("reasons")
    likely = "; ".join(map(str, reasons)) if isinstance(reasons, list) else ""
    return f"left its expected band at step {row['step']}" + (f"; likely: {likely}" if likely else "")


def unlike_expected(run_dir: RunDir) -> str:
    """Return in which settings or data the newest attempt differs from the runs behind its curve; "" for none."""
    row = newest_event(run_dir, "started") if run_dir.expected.exists() else None
    different = row and row.get("unlike_expected")
    return f"has {OTHERS}: {different}" if different else ""
