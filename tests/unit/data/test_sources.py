"""Sources: every format gives the same documents, and what cannot be read is explained in one sentence."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pytest

from trainer.config.data import SourceConfig
from trainer.data import embedded
from trainer.data.sources import Source, source_format
from trainer.errors import UserError

pytest.importorskip("datasets")
TEXTS = [f"Document {number} says naïve things.\nOn two lines: 数据." for number in range(40)]


def jsonl(texts: list[str], column: str = "text") -> bytes:
    return "".join(json.dumps({column: text, "n": 1}) + "\n" for text in texts).encode()


def read(config: SourceConfig) -> list[str]:
    source = Source(config)
    return [text for part in range(source.num_parts) for text in source.documents(part, source.part_budget())]


def zstd(content: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").compress(content))


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)],
)
def test_json_lines_compressed_or_not(tmp_path: Path, suffix: str, pack: object) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(pack(jsonl(TEXTS)))  # type: ignore[operator]
    assert read(SourceConfig(path=str(path))) == TEXTS


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"content": TEXTS}), tmp_path / "a.parquet")
    assert read(SourceConfig(path=str(tmp_path / "a.parquet"), column="content")) == TEXTS


@pytest.mark.parametrize(("kind", "count"), [("lines", 5), ("paragraphs", 2), ("files", 1)])
def test_text_by_lines_paragraphs_and_files(tmp_path: Path, kind: str, count: int) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\nfour\nfive")
    found = read(SourceConfig(path=str(tmp_path / "a.txt"), documents_are=kind))
    assert len(found) == count and found[0].startswith("one") and found[-1].endswith("five")


def test_a_glob_is_read_in_parts_that_hold_everything_once(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_bytes(jsonl(TEXTS[number * 8 : number * 8 + 8]))
    for parts in (None, 1, 2, 5, 9):
        source = Source(SourceConfig(path=str(tmp_path / "*.jsonl"), parts=parts))
        found = [list(source.documents(part)) for part in range(source.num_parts)]
        assert sorted(text for texts in found for text in texts) == sorted(TEXTS)
        assert source.num_parts == min(parts or 5, 5) and all(found)


def test_filters_and_caps(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(["short", "a long text about cats", "a long text about dogs", "", "cats again, at length"]))
    options = {"path": str(path), "min_chars": 6}
    assert read(SourceConfig(**options, matching="cats?")) == ["a long text about cats", "cats again, at length"]
    assert read(SourceConfig(**options, max_chars=8))[0] == "a long t"
    assert read(SourceConfig(**options, max_bytes=44)) == ["a long text about cats", "a long text about dogs"]


def test_the_embedded_text_is_real_and_in_a_fixed_order() -> None:
    texts = read(SourceConfig(max_bytes="300K"))
    assert 200_000 < sum(len(text.encode()) for text in texts) <= 300_000
    assert texts == read(SourceConfig(max_bytes="300K"))
    assert len(embedded.files()) > 100
    assert sum("def " in text for text in texts) > len(texts) / 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("embedded", "embedded"),
        ("s3://bucket/x/*.jsonl.zst", "json"),
        ("https://host/file.parquet?token=1", "parquet"),
        ("corpus/notes.md", "text"),
        ("HuggingFaceFW/fineweb-edu", "hub"),
        ("wikitext", "hub"),
    ],
)
def test_the_format_follows_from_the_path(path: str, expected: str) -> None:
    assert source_format(SourceConfig(path=path)) == expected


def bad(tmp_path: Path, name: str, content: bytes, **options: object) -> SourceConfig:
    (tmp_path / name).write_bytes(content)
    return SourceConfig(name="mine", path=str(tmp_path / name), retries=0, **options)


def test_bad_input_is_explained(tmp_path: Path) -> None:
    cases = {
        r"no column 'texts' \(did you mean 'text'": bad(tmp_path, "a.jsonl", jsonl(TEXTS), column="texts"),
        r"column 'n' of source 'mine' holds int, not text; columns with text: text": bad(
            tmp_path, "b.jsonl", jsonl(TEXTS), column="n"
        ),
        r"source 'mine' .* cannot be read": bad(tmp_path, "c.jsonl", b'{"text": "a"}\n{"text": broken\n'),
        r"source .mine. .* is not UTF-8 after \d rows": bad(tmp_path, "d.txt", b"fine\n\nnot \xff\xfe utf-8"),
        r"source 'mine' .*e.parquet. cannot be read": bad(tmp_path, "e.parquet", b"no parquet"),
        r"source 'none': there is no file": SourceConfig(name="none", path=str(tmp_path / "none-*.jsonl")),
        r"does not say what it holds": bad(tmp_path, "f.dat", b"?"),
    }
    for words, config in cases.items():
        with pytest.raises(UserError, match=words):
            read(config)
