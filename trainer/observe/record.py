"""The local record of a run, metrics.jsonl and events.jsonl. It is the truth; everything else is a mirror of it."""

from __future__ import annotations

import sys

from trainer.contract.plain_json import read_lines, to_json
from trainer.contract.run_dir import RunDir, replace_in_place_if_full, utc_now
from trainer.observe.journal import Journal
from trainer.observe.metrics import TRAIN
from trainer.observe.observers import Row


class Record:
    """Writes the rows and events of a run to its directory."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._metrics, self._events = Journal(run_dir.metrics), Journal(run_dir.events)

    def training_rows(self) -> list[Row]:
        """Return the rows of training that earlier attempts left, in order."""
        rows = read_lines(self.run_dir.metrics).rows
        return [row for row in rows if row.get("kind") == TRAIN and isinstance(row.get("step"), int)]

    def rewind(self, step: int) -> None:
        """Drop rows after `step`, which a resumed run is about to write again, so that the curve has each step once."""
        if not self.run_dir.metrics.exists():
            return
        lines = read_lines(self.run_dir.metrics)
        sound = [row for row in lines.rows if isinstance(row.get("step"), int)]
        if damaged := lines.damaged + len(lines.rows) - len(sound):
            self._note("damaged_rows_dropped", step=step, rows=damaged)
        rows = [row for row in sound if row["step"] <= step]
        replace_in_place_if_full(self.run_dir.metrics, "".join(to_json(row) + "\n" for row in rows))

    def row(self, row: Row) -> None:
        """Append to metrics.jsonl."""
        if (news := self._metrics.write(row)) is not None:
            self._note("records_waited", step=row["step"], text=news)

    def event(self, row: Row) -> None:
        """Append to events.jsonl."""
        if (news := self._events.write(row)) is not None:
            self._note("records_waited", text=news)

    def finish(self, exit_code: int) -> None:
        """Write what still waits, and say what is lost."""
        for journal in (self._metrics, self._events):
            if (news := journal.write()) is not None:
                self._note("records_waited", text=news)
            if journal.waiting:
                lost = len(journal.waiting) + journal.dropped
                text = f"warning: {lost} rows of {journal.path.name} could not be written and are lost"
                print(text, file=sys.stderr, flush=True)

    def _note(self, event: str, **details: object) -> None:
        self.event({"time": utc_now(), "event": event, **details})
