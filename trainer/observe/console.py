"""One aligned line on standard error for each recorded row."""

from __future__ import annotations

import sys

from trainer.observe.metrics import COLUMNS
from trainer.observe.observers import Row
from trainer.observe.wandb_alerts import alert_of

WIDTH = 7  # of a number: lines stand below one another
HUGE = 1e9  # a perplexity after a run went wrong has 300 digits


class ConsoleObserver:
    """Prints rows."""

    def row(self, row: Row) -> None:
        """Print one line."""
        print(console_line(row), file=sys.stderr, flush=True)

    def event(self, row: Row) -> None:
        """Print a spike. Other events that a person must see are printed by who causes them."""
        if row["event"] == "spike" and (alert := alert_of(row)) is not None:
            print(f"warning: spike: {alert.text}", file=sys.stderr, flush=True)

    def finish(self, exit_code: int) -> None:
        """Nothing is open."""


def console_line(row: Row) -> str:
    """Return one row as aligned text."""
    parts = [f"{row['kind']:<10} step {row['step']:>6}", *([row["eval_set"]] if "eval_set" in row else [])]
    for key, shape in COLUMNS.items():
        if row.get(key) is not None:
            number = f"{row[key]:{shape if abs(row[key]) < HUGE else '.3g'}}"
            parts.append(f"{key} {number:>{WIDTH}}")
    return "  ".join(parts)
