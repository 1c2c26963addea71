"""Raw rows of a table: CSV, JSON lines, a JSON list or parquet, as text or numbers by column name."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from trainer.errors import UserError

Row = dict[str, Any]
READERS = "CSV (.csv, .tsv, .txt), JSON lines (.jsonl, .ndjson), a JSON list (.json) and parquet (.parquet)"


def read_rows(path: Path) -> tuple[list[Row], str]:
    """Return the rows of a file in order and the SHA-256 of its bytes.

    Raises `UserError` for a missing, empty or unreadable file, with the line that could not be read.
    """
    if path.is_dir():
        path = path / "ledger.jsonl"
    if not path.exists():
        raise UserError(f"no such table: {path}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    reader = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".txt": _read_csv,
        ".jsonl": _read_json_lines,
        ".ndjson": _read_json_lines,
        ".json": _read_json,
        ".parquet": _read_parquet,
    }.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: cannot tell the format of {path.suffix!r}; known are {READERS}")
    try:
        rows = reader(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not rows:
        raise UserError(f"{path} has no rows")
    return rows, digest


def _read_csv(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8-sig") as lines:
        header = lines.readline()
        lines.seek(0)
        return [
            {(key or "").strip(): (value or "").strip() for key, value in row.items() if key is not None}
            for row in csv.DictReader(lines, delimiter=_delimiter(header))
        ]


def _delimiter(header: str) -> str:
    """Return the one of tab, semicolon and comma that splits the header into the most names."""
    return max("\t;,", key=header.count) if any(d in header for d in "\t;,") else ","


def _read_json_lines(path: Path) -> list[Row]:
    rows: list[Row] = []
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if not line.endswith("\n"):  # a torn last line: the machine died while it wrote
                break
            raise UserError(f"{path}, line {number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
        rows.append(row)
    return rows


def _read_json(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of objects")
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet as parquet  # heavy, and only some tables need it

    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a parquet file: {error}") from None
    return rows
