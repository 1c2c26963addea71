"""Sources: every format gives the same documents, and what cannot be read is explained in one sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
from pathlib import Path

import pytest

from trainer.config.data import SourceConfig
from trainer.contract.errors import UserError
from trainer.data.source import embedded
from trainer.data.source.inputs import InputFile
from trainer.data.source.sources import Source, source_format
from trainer.data.source.tally import Tally

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
        ("https://host/file.parquet?version=1", "parquet"),
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
        r"source 'mine': .*b.jsonl: line 1: column 'n' holds a number .*, not text \(.* there: text": bad(
            tmp_path, "b.jsonl", jsonl(TEXTS), column="n"
        ),
        r"source 'mine': .*c.jsonl: line 2 is not JSON": bad(tmp_path, "c.jsonl", b'{"text": "a"}\n{"text": broken\n'),
        r"source 'mine': .*d.txt: the last paragraph is not UTF-8 \(0xff at byte 4\)": bad(
            tmp_path, "d.txt", b"fine\n\nnot \xff\xfe utf-8"
        ),
        r"source 'mine': .*e.parquet is cut off or damaged, after 0 rows": bad(tmp_path, "e.parquet", b"no parquet"),
        r"source 'none': there is no file": SourceConfig(name="none", path=str(tmp_path / "none-*.jsonl")),
        r"does not say what it holds": bad(tmp_path, "f.dat", b"?"),
    }
    for words, config in cases.items():
        with pytest.raises(UserError, match=words):
            read(config)


def lines_in(path: Path, *texts: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jsonl(list(texts)))
    return str(path)


@pytest.mark.parametrize("name", ["we[1]rd.jsonl", "what?.jsonl", "star*.jsonl", "two words.jsonl", "[ab].jsonl"])
def test_a_path_that_is_there_is_taken_as_it_is_written(tmp_path: Path, name: str) -> None:
    lines_in(tmp_path / "a.jsonl", "not this")
    lines_in(tmp_path / "star1.jsonl", "not this")
    assert read(SourceConfig(name="s", path=lines_in(tmp_path / name, "this"))) == ["this"]


def test_files_come_in_the_order_of_their_names_each_once(tmp_path: Path) -> None:
    for name in ("b/2", "b/10", "a/x", "c", ".hidden"):
        lines_in(tmp_path / f"{name}.jsonl", name)
    (tmp_path / "dir.jsonl").mkdir()
    assert read(SourceConfig(name="s", path=str(tmp_path / "**" / "*.jsonl"))) == ["a/x", "b/10", "b/2", "c"]


def test_what_is_not_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "dangling.jsonl").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "packed.jsonl.gz").touch()
    for path, words in {
        "dangling.jsonl": "dangling.jsonl is a link to nowhere, which is not there; mend it or remove it",
        "dang*.jsonl": "dangling.jsonl is a link to nowhere",
        "pipe.jsonl": "pipe.jsonl is not a file that can be read twice",
        "empty.jsonl": r"empty.jsonl is empty \(1 file",
        "../" + tmp_path.name: r"is a directory; say which files in it, such as .*/\*\.jsonl",
    }.items():
        with pytest.raises(UserError, match=f"source 's': .*{words}"):
            read(SourceConfig(name="s", path=str(tmp_path / path), format="json"))
    lines_in(tmp_path / "packed2.jsonl.gz", "not packed")
    with pytest.raises(UserError, match=r"packed\.jsonl\.gz is empty, and a gzip file never is"):
        read(SourceConfig(name="s", path=str(tmp_path / "packed*.jsonl.gz")))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"a\xff.jsonl")).write_text('{"text": "a"}\n')
    except OSError:
        pytest.skip("this file system takes no such name")
    with pytest.raises(UserError, match=r"a\\xff\.jsonl' is not UTF-8; rename the file"):
        Source(SourceConfig(path=str(tmp_path / "a*.jsonl")))


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    column = pyarrow.array(["a"])
    parquet.write_table(pyarrow.Table.from_arrays([column, column], names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: it has 2 columns 'text'; give"):
        Source(SourceConfig(path=str(tmp_path / "a.parquet"))).check()


def test_garbage_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause would be seconds; a file that is damaged stays so."""
    monkeypatch.setattr("trainer.data.source.retry.pause_after", lambda state: 1 / 0)
    for suffix in (".gz", ".bz2", ".xz", ".zst", ".zip"):
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(b"<html>404 not found</html>" * 9)
        with pytest.raises(UserError, match=rf"source 'a': .*a\.jsonl{suffix} is (damaged, or not|cut off)"):
            read(SourceConfig(name="a", path=str(path), retries=9))


def test_everything_that_is_dropped_or_altered_is_counted(tmp_path: Path) -> None:
    rows = [{"text": t} for t in ("", "short", "a long cat", "a long dog", None, "cat \ud800 cat", "cat" * 9)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": 1}]))
    source, tally = Source(SourceConfig(path=str(path), min_chars=6, max_chars=12, matching="cat")), Tally()
    assert list(source.documents(0, tally=tally)) == ["a long cat", "cat \ufffd cat", "cat" * 4]
    assert tally == Tally(rows=8, without_text=2, too_short=2, not_matching=1, cut=1, surrogates=1)
    assert tally.told() == (
        "of 8 rows, 2 without text, 2 shorter than min_chars, 1 without what 'matching' looks for, 1 cut to max_chars, "
        "1 with lone surrogates, which became U+FFFD"
    )


def test_rows_are_counted_once_and_whole_files_not_opened_again_where_reading_broke(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [[f"{name} {n}" for n in range(90)] for name in ("a", "b", "c")]
    for name, own in zip("abc", texts, strict=True):
        lines_in(tmp_path / f"{name}.jsonl", *own)
    opened: list[str] = []
    breaks = [("b", 700), ("b", 1500), ("c", 0)]

    class Breaking(io.BytesIO):
        """A file that breaks once at each of some places."""

        name = ""

        def read(self, size: int | None = -1) -> bytes:
            for place in breaks:
                if place[0] == self.name and self.tell() >= place[1]:
                    breaks.remove(place)
                    raise ConnectionError("reset by peer")
            return super().read(500)

    def open_file(file: InputFile, config: SourceConfig) -> Breaking:
        found = Breaking(Path(file.name).read_bytes())
        found.name = Path(file.name).stem
        opened.append(found.name)
        return found

    monkeypatch.setattr("trainer.data.source.sources.open_file", open_file)
    monkeypatch.setattr("trainer.data.source.retry.pause_after", lambda state: 0.0)
    source, tally = Source(SourceConfig(name="s", path=str(tmp_path / "*.jsonl"), parts=1)), Tally()
    assert list(source.documents(0, tally=tally)) == [text for own in texts for text in own]
    assert tally.rows == 270 and not breaks
    assert opened == ["a", "b", "b", "b", "c", "c"]


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    changes = (lambda: path.open("a").write("\n"), lambda: os.utime(path, ns=(0, 7)))
    for change, cap in itertools.product(changes, (None, 500)):  # a cap ends the reading before the file's end
        path.write_bytes(jsonl([f"document {n}" for n in range(200)]))
        found = Source(SourceConfig(path=str(path))).documents(0, cap)
        next(found)
        change()
        with pytest.raises(UserError, match=r"a\.jsonl was changed while it was read \(\d+ bytes of .* now\)"):
            list(found)


def test_a_directory_may_be_given_like_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines_in(tmp_path / "corpus" / "a.jsonl", "one")
    lines_in(tmp_path / "corpus" / "b.jsonl", "two", "three")
    source = Source(SourceConfig(path="corpus"))
    assert [Path(file.name).name for file in source.files] == ["a.jsonl", "b.jsonl"]
    assert [list(source.documents(part)) for part in range(source.num_parts)] == [["one"], ["two", "three"]]
