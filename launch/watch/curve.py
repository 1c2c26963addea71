"""The loss curve of a run: points at evenly spaced places of its record, however long that is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trainer.contract.plain_json import parse_line

ROW_BYTES = 4096  # that hold a whole row, wherever one begins to read
LEAST_STRIDE = 256  # bytes; no row is shorter


class Point(NamedTuple):
    """A recorded step. `tokens` is None in records of old."""

    step: int
    tokens: int | None
    loss: float


class Curve:
    """Reads some `points` rows of training, with `early` a few more at the beginning, and then only those that are new.

    Places are multiples of a power of two, so that those of a longer record are among those of before. A record that
    was replaced, as a resumed run does, is read anew.
    """

    def __init__(self, metrics: Path, points: int, *, early: bool = False) -> None:
        self.metrics, self.most, self.early = metrics, points, early
        self._known: dict[int, Point] = {}  # by the place from which its row was looked for
        self._file = self._size = 0

    def read(self) -> tuple[Point, ...]:
        """Return the points in order, the newest row last; none where the record cannot be read."""
        try:
            file = os.open(self.metrics, os.O_RDONLY)
        except OSError:
            return ()
        try:
            return self._read(file)
        except OSError:  # a directory in its place
            return ()
        finally:
            os.close(file)

    def _read(self, file: int) -> tuple[Point, ...]:
        stat = os.fstat(file)
        if stat.st_ino != self._file or stat.st_size < self._size:
            self._known = {}
        self._file, self._size = stat.st_ino, stat.st_size
        stride = LEAST_STRIDE
        while stride * self.most < self._size:
            stride *= 2
        found: dict[int, Point] = {}
        for place in [*self._early(stride), *range(0, self._size, stride)]:
            point = self._known.get(place) or _first_row(file, place)
            if point is not None:
                found[place] = point
        self._known = found
        by_step = {point.step: point for point in found.values()}
        if (last := _last_row(file, self._size)) is not None:
            by_step[last.step] = last
        return tuple(by_step[step] for step in sorted(by_step))

    def _early(self, stride: int) -> Iterator[int]:
        """Yield places before the first stride is over, each twice as far as the one before, for a logarithmic axis."""
        place = LEAST_STRIDE
        while self.early and place < min(stride, self._size):
            yield place
            place *= 2


def _first_row(file: int, place: int) -> Point | None:
    """Return the first whole row of training in the block at a place."""
    lines = os.pread(file, ROW_BYTES, place).split(b"\n")
    return next((point for line in (lines[1:-1] if place else lines[:-1]) if (point := _point(line))), None)


def _last_row(file: int, size: int) -> Point | None:
    place = max(0, size - ROW_BYTES)
    lines = os.pread(file, ROW_BYTES, place).split(b"\n")[:-1]
    return next((point for line in reversed(lines[1:] if place else lines) if (point := _point(line))), None)


def _point(line: bytes) -> Point | None:
    row = parse_line(line)
    if row is None or row.get("kind") != "train":
        return None
    step, tokens, loss = row.get("step"), row.get("tokens"), row.get("loss")
    if not isinstance(step, int) or not isinstance(loss, int | float):
        return None
    return Point(step, tokens if isinstance(tokens, int) else None, float(loss))
