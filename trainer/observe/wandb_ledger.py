"""Which row of metrics.jsonl has which number in W&B, so that the mirror has each row exactly once.

W&B numbers the rows of a run's history by `_step`, drops numbers that do not grow, and tells a resumed run at which
number to go on. Each number is written to `wandb.jsonl` before its row is sent. Whoever sends next, whatever ended
the last sender, therefore knows from the server's answer which rows are there.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trainer.contract.plain_json import parse_line, read_lines
from trainer.contract.run_dir import RunDir, append_json
from trainer.observe.observers import Row

LEDGER = "wandb.jsonl"
Key = tuple[str, int, str, int]


def key_of(row: Row) -> Key | None:
    """Return what tells a row from all others of its run: kind, step, held-out set, rollbacks before it.

    A run that went back trains steps on other data: those are rows of their own. None for a damaged row.
    """
    kind, step = row.get("kind"), row.get("step")
    if not isinstance(kind, str) or not isinstance(step, int):
        return None
    rollbacks = row.get("rollbacks", 0)
    return kind, step, str(row.get("eval_set", "")), rollbacks if isinstance(rollbacks, int) else 0


class Ledger:
    """The numbers of the rows of one run."""

    def __init__(self, run_dir: RunDir) -> None:
        self.path = run_dir.root / LEDGER
        self.numbers: dict[Key, int] = {}
        self._events = 0  # of events.jsonl, from the first on, that alerts were made of
        for entry in read_lines(self.path).rows:
            if isinstance(first := entry.get("resumed_at"), int):
                self._forget(first)
            elif isinstance(events := entry.get("events"), int):
                self._events = events
            elif isinstance(number := entry.get("number"), int) and (key := key_of(entry)) is not None:
                self.numbers[key] = number
        self._next = self._seen = 0

    def resume(self, next_number: int, rows: Sequence[Row]) -> list[tuple[int, Row]]:
        """Begin to send to a server whose history ends before `next_number`. Return the rows that it lacks.

        What was numbered and did not arrive is numbered again: a restarted run may have taken the row back. A run whose
        ledger was lost sent its rows in the order of `rows`, the file's.
        """
        if not self.numbers:
            sent = [key for row in rows if (key := key_of(row)) is not None][:next_number]
            self.numbers = {key: number for number, key in enumerate(dict.fromkeys(sent))}
            append_json(self.path, *(_entry(number, key) for key, number in self.numbers.items()))
        elif any(number >= next_number for number in self.numbers.values()):
            append_json(self.path, {"resumed_at": next_number})
            self._forget(next_number)
        self._next = next_number
        return self.add(rows)

    def add(self, rows: Sequence[Row]) -> list[tuple[int, Row]]:
        """Number the rows that have no number yet, on disk too, and return those, to be sent in this order."""
        new: list[tuple[int, Row]] = []
        entries = []
        for row in rows:
            if (key := key_of(row)) is not None and key not in self.numbers:
                self.numbers[key] = self._next
                new.append((self._next, row))
                entries.append(_entry(self._next, key))
                self._next += 1
        if entries:
            append_json(self.path, *entries)
        return new

    def new_events(self, events: Sequence[Row]) -> list[Row]:
        """Return those of the events that no sender had; `events` go on where those of the last call ended."""
        new = list(events[max(0, self._events - self._seen) :])
        self._seen += len(events)
        if new:
            self._events = self._seen
            append_json(self.path, {"events": self._events})
        return new

    def _forget(self, first: int) -> None:
        self.numbers = {key: number for key, number in self.numbers.items() if number < first}

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Be the only sender of this run while the block runs; False where another process is."""
        with self.path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def _entry(number: int, key: Key) -> Row:
    kind, step, eval_set, rollbacks = key
    details = {"eval_set": eval_set, "rollbacks": rollbacks}
    return {"number": number, "kind": kind, "step": step, **{name: value for name, value in details.items() if value}}


class Tail:
    """New rows of a JSON-lines file that grows, and that a restarted run replaces by a shorter one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inode = self._offset = 0

    def rows(self) -> list[Row]:
        """Return the whole rows that were not returned yet; all of them again where the file was replaced."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != self._inode or stat.st_size < self._offset:
                self._inode, self._offset = stat.st_ino, 0
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [row for line in whole.split(b"\n") if (row := parse_line(line)) is not None]
