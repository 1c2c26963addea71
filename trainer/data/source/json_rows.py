"""Read the text column of JSON: one object a line, or one array of objects in any layout, value by value."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from trainer.contract.errors import UserError, did_you_mean
from trainer.data.source.damage import BUFFER
from trainer.data.source.utf8 import decoded, not_utf8

LOOKED_AT = 10_000  # rows in which a column must turn up
SHOWN = 40  # characters of a wrong value
KINDS = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}


def json_texts(stream: BinaryIO, where: str, column: str) -> Iterator[str | None]:
    """Yield the text of each object; None where it is null or missing.

    `where` begins each error. Raises UserError for what is not JSON, not UTF-8, not an object or not text, and for a
    file without the column.
    """
    column_seen = _ColumnSeen(column, where)
    rows = _json_array(stream, where) if _begins_array(stream) else _json_lines(stream, where)
    for place, row in rows:
        if isinstance(row, str) and place.startswith("item"):  # an array of texts
            row = {"text": row}
        if not isinstance(row, dict):
            raise UserError(f"{where}: {place} is {_shown(row)}, not an object with a column {column!r}")
        column_seen.look(row)
        text = row.get(column)
        if text is not None and not isinstance(text, str):
            others = ", ".join(key for key, value in row.items() if isinstance(value, str)) or "none"
            raise UserError(
                f"{where}: {place}: column {column!r} holds {_shown(text)}, not text (columns with text there: "
                f"{others}); mend that row, or take it out"
            )
        yield text
    column_seen.end()


class _ColumnSeen:
    """Refuses a file in which a column never turns up: rows may lack it, but a name that is misspelt is a mistake."""

    def __init__(self, column: str, where: str) -> None:
        self.column, self.where = column, where
        self.seen, self.rows = False, 0
        self.known: dict[str, None] = {}

    def look(self, row: dict[str, Any]) -> None:
        if self.seen:
            return
        self.seen = self.column in row
        self.rows += 1
        self.known |= dict.fromkeys(list(row)[: 100 - len(self.known)])
        if self.rows == LOOKED_AT:
            self.end()

    def end(self) -> None:
        if self.rows and not self.seen:
            rows = f"the first {self.rows:,} rows have" if self.rows == LOOKED_AT else "it has"
            raise UserError(f"{self.where}: {rows} no column {self.column!r}{did_you_mean(self.column, self.known)}")


def _begins_array(stream: BinaryIO) -> bool:
    head = stream.peek(BUFFER)  # type: ignore[attr-defined]
    return bool(head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[")


def _json_lines(stream: BinaryIO, where: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(stream, 1):
        place = f"line {number}"
        text = decoded(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, where, place)
        if not text.isspace():
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                row = _unusual(text, where, place, error)
            yield place, row


def _unusual(text: str, where: str, place: str, error: Exception) -> Any:
    """Return the value of a JSON text with an integer of thousands of digits, which Python refuses to read."""
    if type(error) is ValueError:
        return json.loads(text, parse_int=float)
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    raise UserError(f"{where}: {place} is not JSON: {reason}") from None


def _json_array(stream: BinaryIO, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the items of one array, which may be laid out over lines in any way."""
    text = _ArrayText(stream, where)
    text.take("[")
    number = 0
    while text.next_character() != "]" or number:
        number += 1
        yield f"item {number}", text.value(f"item {number}")
        if text.next_character() == "]":
            break
        text.take(",")
    text.take("]")
    if text.next_character():
        raise UserError(f"{where}: something follows its array, from {text.shown()} on; write one JSON object a line")


class _ArrayText:
    """The text of a JSON array, read as far as it is needed."""

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self._stream, self._where = stream, where
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._decoder = json.JSONDecoder()
        self._text, self._at, self._ended = "", 0, False

    def _more(self, size: int = BUFFER) -> None:
        data = self._stream.read(size)
        try:
            new = self._decode.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise not_utf8(self._where, "its array", error) from None
        self._text, self._at, self._ended = self._text[self._at :] + new, 0, not data

    def next_character(self) -> str:
        """Return the next character that is not white space, without taking it; nothing at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def take(self, character: str) -> None:
        if self.next_character() != character:
            found = self.shown() or "its end: it is cut off"
            raise UserError(f"{self._where} is not a JSON array: {character!r} is missing before {found}")
        self._at += 1

    def value(self, place: str) -> Any:
        """Take the next value. Its text may be longer than what was read, which then doubles."""
        self.next_character()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            except (ValueError, RecursionError) as error:
                if self._ended:
                    if type(error) is ValueError:
                        self._decoder = json.JSONDecoder(parse_int=float)
                        continue
                    reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
                    raise UserError(f"{self._where}: {place} is not JSON, or cut off: {reason}") from None
            self._more(max(BUFFER, len(self._text)))

    def shown(self) -> str:
        return repr(self._text[self._at : self._at + SHOWN]) if self._at < len(self._text) else ""


def _shown(value: object) -> str:
    """Return what a JSON value is, and how it begins."""
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, (dict, list)) else ""
    begin = f" ({text if len(text) <= SHOWN else text[:SHOWN] + '...'})" if text else ""
    return f"{KINDS.get(type(value), 'a text')}{begin}"
