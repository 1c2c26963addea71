"""Compressed files: whole ones come back, and a cut at any place is an error with the file's name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contract.errors import UserError
from trainer.data.source.unpacking import contents

pyarrow = pytest.importorskip("pyarrow")


def zst(content: bytes) -> bytes:
    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return bytes(out.getvalue())


def zipped(*members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(members):
            archive.writestr(f"{number}.txt", content)
    return out.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zst,
}
CONTENT = b"".join(b"line %d of a text\n" % number for number in range(3000))


def unpack(packed: bytes, name: str) -> bytes:
    return b"".join(stream.read() for _, stream in contents(io.BytesIO(packed), name, f"file {name}"))


@pytest.mark.parametrize("suffix", PACKERS)
def test_members_are_read_whole_and_padding_is_skipped(suffix: str) -> None:
    pack = PACKERS[suffix]
    assert unpack(pack(CONTENT), f"a{suffix}") == CONTENT
    assert unpack(pack(CONTENT), "a.txt") == CONTENT  # its first bytes say what it is
    assert unpack(pack(CONTENT) + pack(b"") + pack(b"more"), f"a{suffix}") == CONTENT + b"more"
    if suffix in (".gz", ".xz"):
        assert unpack(pack(CONTENT) + bytes(512) + pack(b"more") + bytes(4), f"a{suffix}") == CONTENT + b"more"


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_cut_anywhere_is_noticed(suffix: str) -> None:
    pack = PACKERS[suffix]
    first = pack(CONTENT[:9000])
    packed = first + pack(CONTENT[9000:])
    near = {k for end in (0, len(first), len(packed)) for k in range(max(0, end - 30), min(len(packed), end + 30))}
    for cut in sorted(near | set(range(0, len(packed), 131))):
        if cut == len(first):  # a whole file
            continue
        with pytest.raises(UserError, match=rf"^file a{suffix}"):
            unpack(packed[:cut], f"a{suffix}")


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("garbage", [b"not packed at all\n", b"\x00\x01\x02" * 50])
def test_garbage_is_refused_alone_and_behind_a_member(suffix: str, garbage: bytes) -> None:
    for content in (garbage, PACKERS[suffix](CONTENT) + garbage):
        with pytest.raises(UserError, match=rf"^file a{suffix} is (damaged|cut off)"):
            unpack(content, f"a{suffix}")


def test_archives_give_each_of_their_files_and_check_them() -> None:
    packed = zipped(b"one", CONTENT, b"")
    found = [(name, stream.read()) for name, stream in contents(io.BytesIO(packed), "a.zip", "a.zip")]
    assert found == [("a.zip/0.txt", b"one"), ("a.zip/1.txt", CONTENT), ("a.zip/2.txt", b"")]
    for cut in range(0, len(packed), 97):
        with pytest.raises(UserError, match=r"^a\.zip"):
            unpack_zip(packed[:cut])
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 8
    with pytest.raises(UserError, match=r"^a\.zip, 1\.txt, is damaged"):
        unpack_zip(bytes(damaged))


@pytest.mark.parametrize("size", [1, 4, 21])
def test_an_archive_of_a_few_bytes_is_damage_and_not_trouble_of_its_disk(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zip"
    path.write_bytes(zipped(CONTENT)[:size])
    with path.open("rb") as file, pytest.raises(UserError, match=r"is cut off or damaged.*copy it again"):
        list(contents(file, path.name, str(path)))
    remote = fsspec.filesystem("memory")
    remote.pipe_file("/a.jsonl.zip", path.read_bytes())
    with remote.open("/a.jsonl.zip") as file, pytest.raises(UserError, match=r"is cut off or damaged.*copy it again"):
        list(contents(file, path.name, str(path)))


def unpack_zip(packed: bytes) -> bytes:
    return b"".join(stream.read() for _, stream in contents(io.BytesIO(packed), "a.zip", "a.zip"))


@given(pieces=st.lists(st.binary(max_size=300), max_size=4), suffix=st.sampled_from(sorted(PACKERS)))
@settings(max_examples=60, deadline=None)
def test_any_bytes_come_back(pieces: list[bytes], suffix: str) -> None:
    packed = b"".join(PACKERS[suffix](piece) for piece in pieces) or PACKERS[suffix](b"")
    assert unpack(packed, f"a{suffix}") == b"".join(pieces)


def test_a_failure_of_the_file_itself_is_not_called_damage() -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 100:
                raise ConnectionError("reset by peer")
            return super().read(min(size or 50, 50))

    for suffix, pack in PACKERS.items():
        with pytest.raises(ConnectionError, match="reset"):
            for _, stream in contents(Breaking(pack(CONTENT)), f"a{suffix}", "a"):
                stream.read()
