"""What became of the rows that are not documents of a set as they stand, in sentences."""

from __future__ import annotations

from typing import Any

from trainer.data.source.tally import Tally


def account(report: dict[str, Any]) -> list[str]:
    """Return a sentence for each source of a manifest's report of which something was dropped or altered."""
    lines = []
    for tag, counts in report.items():
        if not isinstance(counts, dict) or "documents_read" not in counts:
            continue  # an imported set
        tally = Tally(**counts.get("read", {}))
        if tally.altered() or not counts["documents_read"]:
            nothing = "" if counts["documents_read"] else ": nothing is left of it"
            lines.append(f"{tag}: {tally.told()}{nothing}")
        if dropped := counts["dropped_because_held_out"]:
            lines.append(f"{tag}: {dropped:,} training documents were dropped, because a held-out set has them")
    return lines
