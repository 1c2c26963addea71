"""Read the text column of files, row by row. No other column is looked at, so they may hold anything.

Whether a row is text never depends on its neighbours: no type is guessed from a chunk. Errors name file and row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from trainer.contract.errors import UserError, did_you_mean
from trainer.data.source.damage import Watched
from trainer.data.source.json_rows import json_texts
from trainer.data.source.unpacking import contents, suffix_packing
from trainer.data.source.utf8 import decoded, not_utf8

PARQUET_ROWS = 256  # at a time; documents may be large


def read_rows(
    file: BinaryIO, name: str, where: str, kind: str, column: str, documents_are: str
) -> Iterator[str | None]:
    """Yield the text of each row of a file in JSON, Parquet or text, packed or not; None for a row without text.

    `where` begins each error, such as "source 'web': a.jsonl". Raises UserError for a file that is cut off, damaged,
    not UTF-8 or without the column, and for a row whose text is something else; errors of `file` itself pass through.
    """
    if kind == "parquet":
        yield from _parquet(file, name, where, column)
        return
    for member, stream in contents(file, name, where):
        inside = where if member == name else f"{where}, {member.removeprefix(name + '/')}"
        yield from json_texts(stream, inside, column) if kind == "json" else _text(stream, inside, documents_are)


def _text(stream: BinaryIO, where: str, documents_are: str) -> Iterator[str]:
    if documents_are == "files":
        yield decoded(stream.read(), where, "its text")
    elif documents_are == "lines":
        for number, line in enumerate(stream, 1):
            yield decoded(re.sub(rb"\r?\n\Z", b"", line), where, f"line {number}")
    else:
        yield from _paragraphs(stream, where)


def _paragraphs(stream: BinaryIO, where: str) -> Iterator[str]:
    """Yield what stands between blank lines. A third line end in a row begins the next paragraph."""
    lines: list[bytes] = []
    for number, line in enumerate(stream, 1):
        if line in (b"\n", b"\r\n") and lines:
            lines[-1] = re.sub(rb"\r?\n\Z", b"", lines[-1])
            if any(lines):
                yield decoded(b"".join(lines), where, f"the paragraph before line {number}")
            lines = []
        else:
            lines.append(line)
    if lines:
        yield decoded(b"".join(lines), where, "the last paragraph")


def _parquet(file: BinaryIO, name: str, where: str, column: str) -> Iterator[str | None]:
    from pyarrow import ArrowException, parquet

    if packed := suffix_packing(name):
        raise UserError(f"{where} is Parquet within {packed}, which cannot be read from its end on: unpack it first")
    watched = Watched(file)
    number = 0
    try:
        with parquet.ParquetFile(watched, page_checksum_verification=True) as table:
            _check_column(table.schema_arrow, where, column)
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=[column]):
                yield from _values(batch.column(column), where, number)
                number += len(batch)
    except (ArrowException, OSError, ValueError) as error:
        if watched.error is not None:
            raise watched.error from None
        raise UserError(f"{where} is cut off or damaged, after {number} rows: {error}; copy it again") from None


def _values(texts: Any, where: str, before: int) -> list[str | None]:
    """Return the values of a batch of a table, after so many rows."""
    try:
        values: list[str | None] = texts.to_pylist()
        return values
    except UnicodeDecodeError:
        pass
    for number, value in enumerate(texts, before + 1):
        try:
            value.as_py()
        except UnicodeDecodeError as error:
            raise not_utf8(where, f"row {number}", error) from None
    raise AssertionError("a batch is not UTF-8, and each of its rows is")


def _check_column(schema: Any, where: str, column: str) -> None:
    """Raise UserError for a table whose column is not there or not text."""
    texts = [field.name for field in schema if _is_text(field.type)]
    if column not in schema.names:
        raise UserError(f"{where}: it has no column {column!r}{did_you_mean(column, schema.names)}")
    if (count := schema.names.count(column)) > 1:
        raise UserError(f"{where}: it has {count} columns {column!r}; give the one that is no text another name")
    kind = schema.field(column).type
    if not _is_text(kind) and str(kind) != "null":
        raise UserError(
            f"{where}: column {column!r} holds {kind}, not text (columns with text there: {', '.join(texts) or 'none'})"
        )


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
