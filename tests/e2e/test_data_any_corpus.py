"""Random corpora: what is prepared is what an independent reader finds, document by document, or a refusal by name.

The reader below uses other code than the product: whole files, unpacked by the standard library and zstandard.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_data_prepare import documents_of
from trainer.config.base import parse_section
from trainer.config.data import DataConfig
from trainer.contract.errors import UserError
from trainer.data.prepare.encode import SplitRule
from trainer.data.prepare.prepare import prepare
from trainer.data.store.manifest import Manifest
from trainer.data.store.verify import verify

pytest.importorskip("datasets")
zstandard = pytest.importorskip("zstandard")
SEEDS = range(int(os.environ.get("ESCALA_CORPUS_SEEDS", "12")))
LIMITS = (1 << 16, 1 << 17, 1 << 20)  # what decoders, encoders and readers take at a time
ODD = [
    "\u2028",
    "\u2581",
    "\x00",
    "\x1f",
    "\x85",
    "\ufeff",
    "😀",
    "e\u0301",
    "\u202e",
    "\r",
    "\t",
    "\n",
    '"',
    "\\",
    "數",
]
FRACTION = 0.3


def zip_one(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", content)
    return out.getvalue()


def in_two(pack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: pack(content[: len(content) // 3]) + pack(content[len(content) // 3 :])


def unpack_streams(make: Callable[[], Any]) -> Callable[[bytes], bytes]:
    """Return an unpacker of one stream after another; it ignores no garbage behind the last."""

    def unpack(content: bytes) -> bytes:
        out = []
        while content:
            stream = make()
            out.append(stream.decompress(content))
            assert stream.eof, "a stream that does not end"
            content = stream.unused_data.lstrip(b"\0")
        return b"".join(out)

    return unpack


def unpack_zstd(content: bytes) -> bytes:
    out = []
    while content:
        frame = zstandard.ZstdDecompressor().decompressobj()
        out.append(frame.decompress(content))
        assert frame.eof, "a frame that does not end"
        content = frame.unused_data
    return b"".join(out)


def unpack_zip(content: bytes) -> bytes:
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.testzip() is None
    return b"".join(archive.read(name) for name in archive.namelist())


PACK: dict[str, list[Callable[[bytes], bytes]]] = {
    "": [bytes],
    ".gz": [gzip.compress, in_two(gzip.compress)],
    ".bz2": [bz2.compress, in_two(bz2.compress)],
    ".xz": [lzma.compress, in_two(lzma.compress)],
    ".zst": [zstandard.compress, in_two(zstandard.compress)],
    ".zip": [zip_one],
}
UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.decompress,
    ".bz2": unpack_streams(bz2.BZ2Decompressor),
    ".xz": unpack_streams(lzma.LZMADecompressor),
    ".zst": unpack_zstd,
    ".zip": unpack_zip,
}


class Corpus:
    """Sources of random files below a folder, and the configuration that reads them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.odd_rows = self.rng.random() < 0.25
        self.sources = [self._source(number) for number in range(self.rng.randint(1, 3))]

    def config(self, **changes: Any) -> DataConfig:
        values = {"name": "made", "root": str(self.folder), "tokenizer": {"kind": "bytes"}, "shard_tokens": 4096}
        return parse_section(
            DataConfig, {**values, "held_out_fraction": FRACTION, "sources": self.sources, **changes}, "test"
        )

    def files(self, source: dict[str, Any]) -> list[Path]:
        return sorted((self.folder / source["name"]).iterdir())

    def every_file(self) -> list[Path]:
        return [file for source in self.sources for file in self.files(source)]

    def _source(self, number: int) -> dict[str, Any]:
        rng, name = self.rng, f"s{number}"
        kind = rng.choice(["json", "json", "array", "parquet", "text"])
        source = {"name": name, "format": "json" if kind == "array" else kind, "documents_are": self._documents_are()}
        (self.folder / name).mkdir(parents=True)
        for index in range(rng.randint(1, 4)):
            suffix = "" if kind == "parquet" else rng.choice(sorted(PACK))
            content = self._content(kind)
            stem = rng.choice(["f", "we[1]rd ", "naïve-"])
            path = self.folder / name / f"{stem}{index}.{kind}{suffix}"
            path.write_bytes(rng.choice(PACK[suffix])(content))
        pattern = str(self.folder / name / "*")
        return {**source, "path": pattern, "parts": rng.choice([None, 1, 2, 3])}

    def _documents_are(self) -> str:
        return self.rng.choice(["lines", "paragraphs", "files"])

    def _content(self, kind: str) -> bytes:
        rows = [self._row() for _ in range(self.rng.choice([0, 1, 3, 40]))]
        rows.append({"text": "the last"} if kind != "text" else {"text": "last"})
        limit = self.rng.choice([None, *LIMITS])
        filler = {"text": ""}
        rows.insert(self.rng.randint(0, len(rows)), filler)
        state = self.rng.getstate()
        content = self._written(kind, rows)
        if limit and len(content) < limit:  # the same choices again, and as many bytes as are wanted
            filler["text"] = "x" * (limit + self.rng.choice([-1, 0, 1]) - len(content))
            self.rng.setstate(state)
            content = self._written(kind, rows)
        return content

    def _written(self, kind: str, rows: list[dict[str, Any]]) -> bytes:
        if kind == "text":
            texts = [str(row.get("text")) for row in rows]
            return self.rng.choice(["\n", "\n\n", "\r\n\r\n"]).join(texts).encode(errors="replace")
        if kind == "array":
            return json.dumps(rows, ensure_ascii=self.rng.random() < 0.5, indent=self.rng.choice([None, 1])).encode(
                errors="replace"
            )
        if kind == "json":
            return "".join(json.dumps(row) + self.rng.choice(["\n", "\n", "\r\n", "\n\n"]) for row in rows).encode()
        import pyarrow
        from pyarrow import parquet

        texts = [None if row.get("text") is None else str(row["text"]) for row in rows]
        texts = [text and text.encode(errors="replace").decode() for text in texts]
        out = io.BytesIO()
        others = [[number] * (number % 3) for number in range(len(rows))]
        parquet.write_table(
            pyarrow.table({"n": others, "text": pyarrow.array(texts, pyarrow.string())}), out, row_group_size=7
        )
        return out.getvalue()

    def _row(self) -> dict[str, Any]:
        rng = self.rng
        row = {rng.choice(["a", "id", "meta", "é"]): self._value(2) for _ in range(rng.randint(0, 3))}
        kind = rng.random()
        if kind < 0.08:
            row["text"] = None
        elif kind > 0.12:
            row["text"] = self._text()
        if self.odd_rows and rng.random() < 0.05:
            row["text"] = self._value(1)
        return row

    def _value(self, depth: int) -> Any:
        rng = self.rng
        simple = [None, True, 404, -1.5, float("nan"), 10**400, self._text(), "404"]
        if depth and rng.random() < 0.4:
            return rng.choice([[self._value(depth - 1) for _ in range(2)], {"k": self._value(depth - 1)}])
        return rng.choice(simple)

    def _text(self) -> str:
        rng = self.rng
        pieces = [rng.choice([*ODD, "word", " ", 'says "hello"', "\n\n"]) for _ in range(rng.randint(0, 12))]
        if rng.random() < 0.2:
            pieces.append(chr(rng.choice([rng.randrange(0x20, 0xD800), rng.randrange(0xE000, 0x110000)])))
        if rng.random() < 0.03:
            pieces.append(rng.choice(["\ud800", "\udfff"]))
        return "".join(pieces)


class Refused(Exception):  # noqa: N818 - what the independent reader finds wrong
    pass


def expected(corpus: Corpus, source: dict[str, Any]) -> list[str]:
    """Return the documents of a source. Raises Refused where a file of it cannot be read."""
    found: list[str] = []
    for file in corpus.files(source):
        try:
            found += texts_in(file, source)
        except Exception as error:
            raise Refused(f"{file.name}: {error!r}") from None
    return [text for text in found if text]


def texts_in(file: Path, source: dict[str, Any]) -> list[str]:
    content = file.read_bytes()
    if source["format"] == "parquet":
        from pyarrow import parquet

        return [text for text in parquet.read_table(io.BytesIO(content)).column("text").to_pylist() if text is not None]
    suffix = file.suffix if file.suffix in UNPACK else ""
    assert content or not suffix, "an empty file that should be packed"
    text = UNPACK[suffix](content).decode()
    if source["format"] == "text":
        return cut(text, source["documents_are"])
    if text.lstrip("\ufeff \r\n\t").startswith("["):
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip(" \r\t")]
    assert all(isinstance(row, dict) for row in rows)
    assert not rows or any("text" in row for row in rows), "no such column"
    texts = [row["text"] for row in rows if row.get("text") is not None]
    assert all(isinstance(text, str) for text in texts)
    return [re.sub("[\ud800-\udfff]", "\ufffd", text) for text in texts]


def cut(text: str, documents_are: str) -> list[str]:
    if documents_are == "files":
        return [text]
    if documents_are == "lines":
        return re.split(r"\r?\n", text)
    return re.split(r"\r?\n\r?\n", text)


def prepared(corpus: Corpus, config: DataConfig, tasks: list[tuple[int, int]]) -> Path:
    for task in tasks:
        prepare(config, workers=corpus.rng.randint(1, 3), task=task)
    return Path(config.directory)


def check(corpus: Corpus, config: DataConfig, directory: Path) -> None:
    """Compare the decoded shards with what the independent reader finds, in order, by source and split."""
    rule, manifest = SplitRule(FRACTION), Manifest.open(directory)
    assert manifest.complete and verify(directory) == []
    wanted = {source["name"]: expected(corpus, source) for source in corpus.sources}
    for split in ("train", "held_out"):
        documents = [
            text
            for name in (manifest.sources(split) if manifest.splits[split] else [])
            for text in wanted[name]
            if rule(text.encode()) == split
        ]
        assert (documents_of(directory, split) if manifest.splits[split] else []) == documents
    assert sum(manifest.documents(split) for split in manifest.splits) == sum(map(len, wanted.values()))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_prepared_is_what_is_there_or_a_refusal_by_name(tmp_path: Path, seed: int) -> None:
    corpus = Corpus(tmp_path / "in", seed)
    rng, number = corpus.rng, corpus.rng.randint(1, 3)
    tasks = [(index, number) for index in rng.sample(range(number), number)]
    config = corpus.config(root=str(tmp_path))
    damaged = alter(rng, rng.choice(corpus.every_file())) if rng.random() < 0.3 else None
    try:
        wanted = {source["name"]: expected(corpus, source) for source in corpus.sources}
    except Refused as reason:
        with pytest.raises(UserError) as refused:
            prepared(corpus, config, tasks)
        named = [file for file in corpus.every_file() if str(file) in str(refused.value)]
        assert len(named) == 1 or "is empty (" in str(refused.value), (str(refused.value), str(reason))
        return
    rule = SplitRule(FRACTION)
    sides = {rule(text.encode()) for texts in wanted.values() for text in texts}
    if sides != {"train", "held_out"}:
        with pytest.raises(UserError, match=r"no training document came out of|was held out|is empty"):
            prepared(corpus, config, tasks)
        return
    try:
        prepared(corpus, config, tasks[:-1])
        if list(tmp_path.glob("made/parts/s*-*.json")):  # until a part is finished, nothing holds the files
            change_between_steps(corpus, config, tasks[-1])
        check(corpus, config, prepared(corpus, config, tasks[-1:]))
    except UserError as error:  # a cut can leave a whole file that is empty
        assert damaged and re.search(r"is empty \(|no column", str(error)), str(error)


def alter(rng: random.Random, file: Path) -> Path:
    """Cut a file off or let it grow, anywhere."""
    content = file.read_bytes()
    place = rng.choice([rng.randint(0, len(content)), max(0, len(content) - rng.randint(1, 9)), len(content)])
    file.write_bytes(content[:place] + rng.choice([b"", b"", content[:place], b"\x00\x00", b"more"]))
    return file


def change_between_steps(corpus: Corpus, config: DataConfig, task: tuple[int, int]) -> None:
    """A file that is altered, or a new one, is refused by name; put back, it is as if nothing had been."""
    rng = corpus.rng
    file = rng.choice(corpus.every_file())
    content, times = file.read_bytes(), file.stat()
    new = file.with_name(f"a new one {rng.random()}{file.suffix}")
    if rng.random() < 0.5:
        new.write_bytes(content)
    else:
        alter(rng, file)
    with pytest.raises(UserError) as refused:
        prepare(config, workers=1, task=task)
    assert str(new if new.exists() else file) in str(refused.value)
    new.unlink(missing_ok=True)
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
