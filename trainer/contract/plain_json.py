"""The JSON files of a run: always valid JSON when they are written, and read whatever became of them on a disk.

JSON has no NaN and no infinity (RFC 8259, section 6). A number that is not finite is written as null, and the object
says beside it what it was: `{"loss": null, "non_finite": {"loss": "nan"}}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.contract.errors import UserError

NON_FINITE = "non_finite"  # key under which an object names its numbers that are not finite: path -> nan, inf or -inf


class DamagedFileError(UserError):
    """A file of a run cannot be read as what it should be."""


def to_json(values: object, indent: int | None = None) -> str:
    """Return values as one valid JSON document. Numbers that are not finite become null plus a word.

    Text stays readable; where it is no valid Unicode, as names of files may be, it is escaped.
    """
    words: dict[str, str] = {}
    plain = _plain(values, "", words)
    if words and isinstance(plain, dict):
        plain[NON_FINITE] = {**plain.get(NON_FINITE, {}), **words}
    text = json.dumps(plain, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(plain, indent=indent, allow_nan=False)
    return text


def _is_plain(value: float | str) -> bool:
    return isinstance(value, str) or math.isfinite(value)


def _plain(value: object, path: str, words: dict[str, str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        words[path] = str(float(value))
        return None
    if isinstance(value, dict):
        return {key: _plain(item, f"{path}.{key}" if path else str(key), words) for key, item in value.items()}
    if isinstance(value, list | tuple):
        if all(type(item) in (float, str) for item in value) and all(map(_is_plain, value)):
            return list(value)  # a path for each of many numbers takes longer than all the rest
        return [_plain(item, f"{path}[{index}]", words) for index, item in enumerate(value)]
    return value


@dataclass(frozen=True)
class Lines:
    """The rows of a JSON-lines file, and how many of its lines are no row. A torn last line is neither."""

    rows: list[dict[str, Any]]
    damaged: int = 0


def read_lines(path: Path) -> Lines:
    """Return the objects of a JSON-lines file in order, without the lines that are none; empty where there is no file.

    A last line without its end is still being written, or was torn by a crash: it is left out and not counted.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Lines([])
    rows = [row for line in lines if (row := parse_line(line)) is not None]
    return Lines(rows, sum(1 for line in lines if line.strip()) - len(rows))


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the object that a line holds, or None."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, or not UTF-8
        return None
    return row if isinstance(row, dict) else None


def rows_of(path: Path, *keys: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON-lines file that have all these keys: a damaged row may lack any."""
    return (row for row in read_lines(path).rows if all(key in row for key in keys))


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """Return the object that a file holds, which must have these keys.

    Raises `DamagedFileError`, a `UserError` that names the file, for anything else, and `FileNotFoundError`.
    """
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: it is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise DamagedFileError(f"{path} is damaged: it holds a {type(values).__name__} where an object belongs")
    missing = [key for key in keys if key not in values]
    if missing:
        raise DamagedFileError(f"{path} is damaged: it has no {missing[0]!r}")
    return values
