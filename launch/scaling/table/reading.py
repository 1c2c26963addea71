"""Raw rows of a table: CSV, JSON lines, a JSON list, parquet or a spreadsheet, as text or numbers by column name."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from trainer.contract.errors import UserError

Row = dict[str, Any]
READERS = (
    "CSV (.csv, .tsv, .txt), JSON (.jsonl, .ndjson, .json) and parquet (.parquet), also with .gz after it, and .xlsx"
)
_DECIMAL_COMMA = re.compile(r"^[+-]?\d+,\d+([eE][+-]?\d+)?$")


TUNING = "tuning"  # purpose of a ledger's row: a trial of settings, no point of a law


@dataclass(frozen=True)
class Raw:
    """The rows of a file in order, the SHA-256 of its bytes, and what could not be read."""

    rows: list[Row]
    sha256: str
    warnings: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names that any row has, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row))


def read_rows(path: Path) -> Raw:
    """Read a table.

    Raises `UserError` for a missing, empty or unreadable file, with the line that could not be read.
    """
    if path.is_dir():
        path = path / "ledger.jsonl"
    if not path.exists():
        raise UserError(f"no such table: {path}")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    reader = _READERS.get(plain.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: cannot tell the format of {plain.suffix!r}; known are {READERS}")
    try:
        rows, warnings = reader(content if plain == path else gzip.decompress(content), str(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file: {error}") from None
    if not rows:
        raise UserError(f"{path} has no rows")
    return Raw(rows, digest, tuple(warnings))


def without_tuning(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a ledger but for those of `escala sweep tune`."""
    return [row for row in rows if row.get("purpose") != TUNING]


def _read_csv(content: bytes, path: str) -> tuple[list[Row], list[str]]:
    """Read a header and one row a line. Empty cells alone are no line; short rows lack their last cells."""
    text = _text(content)
    mark = _delimiter(next((line for line in text.splitlines() if line.strip()), ""))
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    try:
        stripped = [[cell.strip() for cell in line] for line in lines]
        header, *rows = [line for line in stripped if any(line)] or [[]]
    except csv.Error as error:
        raise UserError(f"{path}, line {lines.line_num}: not CSV ({error})") from None
    _check_cells(header, rows, path)
    if mark == ";":  # as spreadsheets write it where the comma is the decimal mark
        rows = [[cell.replace(",", ".") if _DECIMAL_COMMA.match(cell) else cell for cell in row] for row in rows]
    return [dict(zip(header, row + [""] * len(header), strict=False)) for row in rows], []


def _check_cells(header: list[str], rows: Sequence[Sequence[Any]], path: str) -> None:
    """Raise `UserError` for two columns of one name, and for cells beyond the header."""
    for name in header:
        if name and header.count(name) > 1:
            places = ", ".join(str(k) for k, other in enumerate(header, start=1) if other == name)
            raise UserError(f"{path}: columns {places} are all named {name!r}; rename all but the one that is meant")
    for number, row in enumerate(rows, start=1):
        if any(row[len(header) :]):
            raise UserError(
                f"{path}: row {number} has {len(row)} cells, the header {len(header)} ({', '.join(header)[:60]}): "
                "a number with commas, or a text with the separator in it, wants quotes"
            )


def _text(content: bytes) -> str:
    """Decode a text. UTF-16, as spreadsheets and Windows export it, is seen from its byte order mark."""
    return content.decode("utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")


def _delimiter(header: str) -> str:
    """Return the one of tab, semicolon and comma that splits the header into the most names."""
    unquoted = re.sub(r'"[^"]*"', "", header)
    return max(",\t;", key=unquoted.count)


def _read_json(content: bytes, path: str) -> tuple[list[Row], list[str]]:
    """Read a list of objects, or one object a line; which of the two is seen from the first character."""
    text = _text(content)
    return (_json_list(text, path), []) if text.lstrip().startswith("[") else _json_lines(text, path)


def _json_list(text: str, path: str) -> list[Row]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: expected a list of objects")
    return list(rows)


def _json_lines(text: str, path: str) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    *lines, last = text.split("\n")
    for number, line in enumerate([*lines, last], start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number > len(lines) and rows:  # the machine died while it wrote
                return rows, [f"left out: line {number}, which is torn: {line[:40]!r}"]
            raise UserError(
                f"{path}, line {number}: not JSON ({error.msg}); expected one object a line{_mend(path)}"
            ) from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
        rows.append(row)
    return rows, []


def _mend(path: str) -> str:
    return "; remove the line, and `escala sweep run` adds it again" if Path(path).name == "ledger.jsonl" else ""


def _read_parquet(content: bytes, path: str) -> tuple[list[Row], list[str]]:
    import pyarrow as arrow  # heavy, and only some tables need it
    import pyarrow.parquet as parquet

    try:
        rows: list[Row] = parquet.read_table(arrow.BufferReader(content)).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a parquet file: {error}") from None
    return rows, []


def _read_xlsx(content: bytes, path: str) -> tuple[list[Row], list[str]]:
    """Read the first sheet that has rows: a header, then one run a row. Formulas are read as their saved values."""
    try:
        from openpyxl import load_workbook  # an extra of its own: few tables need it
    except ImportError:
        raise UserError(
            f"{path} is a spreadsheet, which needs openpyxl: pip install 'escala[xlsx]', or save the table as CSV"
        ) from None
    try:
        book = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        sheets = {sheet.title: [row for row in sheet.iter_rows(values_only=True) if any(c is not None for c in row)]
                  for sheet in book.worksheets}  # fmt: skip
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, ParseError) as error:
        raise UserError(f"{path} is not an .xlsx file: {error}") from None
    filled = {title: rows for title, rows in sheets.items() if len(rows) > 1}
    if not filled:
        return [], []
    title, (names, *rows) = next(iter(filled.items()))
    header = ["" if name is None else str(name).strip() for name in names]
    _check_cells(header, rows, path)
    more = [f"sheet {title!r} is read; also there: {', '.join(list(filled)[1:])}"] if len(filled) > 1 else []
    found = [
        {name: "" if cell is None else cell for name, cell in zip(header, row, strict=False) if name} for row in rows
    ]
    return found, more


_READERS: dict[str, Callable[[bytes, str], tuple[list[Row], list[str]]]] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), _read_csv),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _read_json),
    ".parquet": _read_parquet,
    ".xlsx": _read_xlsx,
}
