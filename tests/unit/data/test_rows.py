"""Rows of files: the text column alone is read, whatever its neighbours hold; errors name file and row."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contract.errors import UserError
from trainer.data.source.json_rows import LOOKED_AT
from trainer.data.source.rows import read_rows

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.text(st.characters(), max_size=30)  # lone surrogates too


def rows(content: bytes, name: str = "a.jsonl", kind: str = "json", **options: Any) -> list[str | None]:
    options = {"column": "text", "documents_are": "paragraphs", **options}
    return list(read_rows(io.BytesIO(content), name, f"source 'mine': {name}", kind, **options))


def lines(*values: Any) -> bytes:
    return "".join(json.dumps(value) + "\n" for value in values).encode()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (404, r"a number \(404\)"),
        (1.5, r"a number \(1\.5\)"),
        (True, r"a truth value \(true\)"),
        (["a"], "a list"),
        ({"a": 1}, "an object"),
    ],
)
@pytest.mark.parametrize("row", [0, 1, 2000, 2999])
def test_a_value_that_is_not_text_is_named_by_its_row_and_nothing_else_changes(
    value: Any, shown: str, row: int
) -> None:
    documents = [{"text": f'document {n} says "hello"\nworld'} for n in range(3000)]
    assert rows(lines(*documents)) == [document["text"] for document in documents]
    documents[row] = {"text": value, "title": "A"}  # type: ignore[dict-item]
    expected = rf"source 'mine': a\.jsonl: line {row + 1}: column 'text' holds {shown}, not text .*there: title"
    with pytest.raises(UserError, match=expected):
        rows(lines(*documents))


@given(others=st.lists(st.dictionaries(st.text(max_size=4).filter(lambda k: k != "text"), JSON, max_size=3)))
@settings(max_examples=80, deadline=None)
def test_other_columns_may_hold_anything(others: list[dict[str, Any]]) -> None:
    documents = [{**other, "text": f"document {n}"} for n, other in enumerate(others)]
    expected = [document["text"] for document in documents]
    assert rows(lines(*documents)) == expected
    assert rows(json.dumps(documents).encode()) == expected
    assert rows(json.dumps(documents, indent=2).encode(), name="a.json") == expected


@given(texts=st.lists(TEXTS | st.none(), min_size=1), array=st.booleans())
@settings(max_examples=80, deadline=None)
def test_any_text_comes_back(texts: list[str | None], array: bool) -> None:
    documents = [{"text": text} for text in texts]
    assert rows(json.dumps(documents).encode() if array else lines(*documents)) == texts


def test_rows_without_text_are_given_as_such_and_a_misspelt_column_is_refused() -> None:
    assert rows(lines({"id": 1}, {"text": None}, {"text": "a"})) == [None, None, "a"]
    with pytest.raises(UserError, match=r"it has no column 'text' \(did you mean 'texts'"):
        rows(lines({"texts": "a"}, {"texts": "b"}))
    with pytest.raises(UserError, match=r"the first 10,000 rows have no column 'text' \(did you mean 'txt'"):
        rows(lines(*[{"txt": "a"}] * LOOKED_AT, {"text": "too late"}))
    assert rows(b"") == rows(b"\n \n") == []


def test_unusual_json_is_read_and_wrong_json_is_named_by_its_line() -> None:
    assert rows(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}') == ["a", "b"]
    assert rows(b'{"n": NaN, "m": ' + b"9" * 5000 + b', "text": "a"}\n') == ["a"]
    assert rows(b'["a", "b"]') == ["a", "b"]
    for content, words in {
        b'{"text": "a"}\n{"text": "b"': r"line 2 is not JSON: Expecting ',' delimiter",
        b'{"text": "a"}{"text": "b"}\n': r"line 1 is not JSON: Extra data",
        b'{"text": "a"}\n{"text": "\xff"}\n': r"line 2 is not UTF-8 \(0xff at byte 10\)",
        b'{"text": "a"}\n[1]\n': r"line 2 is a list, not an object with a column 'text'",
        b'"a"\n': r"line 1 is a text \(\"a\"\), not an object",
        b'{"x": ' + b"[" * 100_000: "line 1 is not JSON: it is nested too deeply",
        b'[{"text": "a"}, {"text": 1}]': "item 2: column 'text' holds a number",
        b'[{"text": "a"}, {"text": "b"}': r"not a JSON array: ',' is missing before its end: it is cut off",
        b'[{"text": "a"}, {"text": "b': "item 2 is not JSON, or cut off",
        b'[{"text": "a"}] {"text": "b"}': "something follows its array",
        b'[{"text": "a"},]': "item 2 is not JSON",
    }.items():
        with pytest.raises(UserError, match=f"source 'mine': a.jsonl.*{words}"):
            rows(content)


def test_an_array_longer_than_what_is_read_at_a_time() -> None:
    texts = ["x" * n for n in (3_000_000, 1, 1_048_560, 7)]
    assert rows(json.dumps([{"text": text, "id": 12} for text in texts]).encode()) == texts


def paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in text.split("\n\n") if paragraph]


@given(text=st.text(st.sampled_from("ab\n\u2028\x0cé"), max_size=40))
@settings(max_examples=200, deadline=None)
def test_text_is_cut_at_line_ends_only(text: str) -> None:
    content = text.encode()
    assert rows(content, kind="text") == paragraphs(text)
    assert rows(content, kind="text", documents_are="lines") == text.removesuffix("\n").split("\n")[: len(text)]
    assert rows(content, kind="text", documents_are="files") == [text]


def test_line_ends_of_windows_cut_documents_and_stay_inside_them() -> None:
    content = b"one\r\ntwo\r\n\r\nthree\rfour\n"
    assert rows(content, kind="text") == ["one\r\ntwo", "three\rfour\n"]
    assert rows(content, kind="text", documents_are="lines") == ["one", "two", "", "three\rfour"]
    assert rows(content, kind="text", documents_are="files") == [content.decode()]


def table(**columns: Any) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), out, row_group_size=100, write_page_checksum=True)
    return out.getvalue()


def test_parquet_reads_one_column_of_any_kind_of_text() -> None:
    import pyarrow

    texts = [f"document {n}" if n % 5 else None for n in range(700)]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        column = pyarrow.array(texts).cast(kind)
        content = table(text=column, other=[{"a": [n]} for n in range(700)])
        assert rows(content, "a.parquet", "parquet") == texts
    assert rows(table(text=pyarrow.array([], pyarrow.string())), "a.parquet", "parquet") == []
    assert rows(table(text=pyarrow.nulls(3)), "a.parquet", "parquet") == [None] * 3


def test_parquet_that_is_not_text_cut_or_damaged_is_named() -> None:
    content = table(text=[f"document {n} " * 30 for n in range(700)], n=list(range(700)))
    for cut in (*range(40), *range(40, len(content), 501), len(content) - 1):
        with pytest.raises(UserError, match=r"source 'mine': a\.parquet is cut off or damaged"):
            rows(content[:cut], "a.parquet", "parquet")
    damaged = bytearray(content)
    damaged[400] ^= 1  # in the first column's first page
    with pytest.raises(UserError, match=r"source 'mine': a\.parquet is cut off or damaged, after \d+ rows"):
        rows(bytes(damaged), "a.parquet", "parquet")
    with pytest.raises(UserError, match=r"column 'n' holds int64, not text \(columns with text there: text\)"):
        rows(content, "a.parquet", "parquet", column="n")
    with pytest.raises(UserError, match=r"it has no column 'txt' \(did you mean 'text'"):
        rows(content, "a.parquet", "parquet", column="txt")
    import pyarrow

    wrong = pyarrow.array([b"fine", b"\xff"]).view(pyarrow.string())
    with pytest.raises(UserError, match=r"a\.parquet: row 2 is not UTF-8 \(0xff at byte 0\)"):
        rows(table(text=wrong), "a.parquet", "parquet")
