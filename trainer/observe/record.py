"""The local record of a run: metrics.jsonl and the console. It is the truth; everything else is a mirror of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol

from trainer.contract.plain_json import read_lines, to_json
from trainer.contract.run_dir import RunDir, replace_in_place_if_full, utc_now
from trainer.observe.journal import Journal


class Mirror(Protocol):
    """Somewhere that rows are copied to. It may lose them, but it must never wait or fail."""

    def log(self, row: dict[str, Any]) -> None: ...

    def finish(self, exit_code: int) -> None: ...


class Record:
    """Writes the rows of the first rank; on all other ranks every call does nothing."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        active: bool,
        mirrors: tuple[Mirror, ...] = (),
        may_write: Callable[[], bool] = lambda: True,
    ) -> None:
        self.run_dir, self.mirrors = run_dir, mirrors
        self._metrics, self._events = Journal(run_dir.metrics), Journal(run_dir.events)
        self._first, self._may_write = active, may_write

    @property
    def active(self) -> bool:
        """Whether this rank writes. Asked before each write: a newer attempt of the run ends it."""
        return self._first and self._may_write()

    def rewind(self, step: int) -> None:
        """Drop rows after `step`, which a resumed run is about to write again, so that the curve has each step once."""
        if not self.active or not self.run_dir.metrics.exists():
            return
        lines = read_lines(self.run_dir.metrics)
        sound = [row for row in lines.rows if isinstance(row.get("step"), int)]
        if damaged := lines.damaged + len(lines.rows) - len(sound):
            self.event("damaged_rows_dropped", step=step, rows=damaged)
        rows = [row for row in sound if row["step"] <= step]
        replace_in_place_if_full(self.run_dir.metrics, "".join(to_json(row) + "\n" for row in rows))

    def row(self, kind: str, step: int, **values: Any) -> None:
        """Write one row of kind `train` or `evaluation` after `step` steps."""
        if not self.active:
            return
        row = {"kind": kind, "step": step, **values}
        if (news := self._metrics.write(row)) is not None:
            self.event("records_waited", step=step, text=news)
        for mirror in self.mirrors:
            mirror.log(row)
        print(console_line(row), file=sys.stderr, flush=True)

    def event(self, event: str, **details: Any) -> None:
        """Write one line to events.jsonl."""
        if not self.active:
            return
        row = {"time": utc_now(), "event": event, **details}
        if (news := self._events.write(row)) is not None:
            self.event("records_waited", text=news)

    def finish(self, exit_code: int) -> None:
        """Write what still waits, and end the mirrors, each within its own time-out."""
        if self.active:
            for journal in (self._metrics, self._events):
                if (news := journal.write()) is not None:
                    self.event("records_waited", text=news)
                if journal.waiting:
                    lost = len(journal.waiting) + journal.dropped
                    print(f"warning: {lost} rows of {journal.path.name} could not be written and are lost",
                          file=sys.stderr, flush=True)  # fmt: skip
        for mirror in self.mirrors:
            mirror.finish(exit_code)


def console_line(row: dict[str, Any]) -> str:
    """Return one row as aligned text."""
    parts = [f"{row['kind']:<10} step {row['step']:>6}", *([row["eval_set"]] if "eval_set" in row else [])]
    for key, shape in CONSOLE_COLUMNS.items():
        if row.get(key) is not None:
            parts.append(f"{key} {row[key]:{shape if abs(row[key]) < HUGE else '.3g'}}")
    return "  ".join(parts)


HUGE = 1e9  # a perplexity after a run went wrong has 300 digits
CONSOLE_COLUMNS = {
    "loss": ".4f",
    "perplexity": ".2f",
    "bits_per_byte": ".4f",
    "grad_norm": ".3f",
    "lr": ".2e",
    "tokens_per_second": ",.0f",
    "seconds_left": ",.0f",
}
