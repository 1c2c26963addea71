"""Whether a run has left the course that finished runs foretold for it, from the event that says so."""

from __future__ import annotations

from launch.run.newest_step import newest_event
from trainer.contract.run_dir import RunDir

LEFT, BACK = "left_band", ("rolled_back", "began_anew")
HELPS = "compare its settings and its data with those of the finished runs"


def left_band(run_dir: RunDir) -> str:
    """Return where a run left its expected band and the likely reasons; "" where it did not, or has gone back since."""
    row = newest_event(run_dir, LEFT, *BACK) if run_dir.expected.exists() else None
    if row is None or row["event"] != LEFT:
        return ""
    reasons = row.get("reasons")
    likely = "; ".join(map(str, reasons)) if isinstance(reasons, list) else ""
    return f"left its expected band at step {row.get('step')}" + (f"; likely: {likely}" if likely else "")
