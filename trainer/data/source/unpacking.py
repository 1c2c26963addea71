"""Unpack compressed files so that a cut or damaged one is noticed, wherever it was cut.

Every decoder is asked at the end of the file whether its data had ended. Files of several members or frames, which
`cat`, `pigz` and `zstd` write, are read whole, and NUL bytes that pad them are skipped.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Protocol

from trainer.contract.errors import UserError
from trainer.data.source.damage import BUFFER, HEAD, Watched, cut_off, damaged
from trainer.data.source.zip_members import zip_members

PIECE = 1 << 16  # of compressed data that a decoder gets at a time
SUFFIXES = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
# None of these can begin a text: they hold bytes that are not UTF-8, or control characters, or a block's magic number.
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
} | {b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)}


class Decoder(Protocol):
    """What bz2 and lzma call a decompressor: it unpacks one member."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes without new data."""

    @property
    def unused_data(self) -> bytes:
        """What was found behind the member."""

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        """Take in packed bytes; return unpacked ones, at most `max_length` of them unless that is below 0."""


def contents(file: BinaryIO, name: str, where: str) -> Iterator[tuple[str, BinaryIO]]:
    """Yield (name, unpacked stream) of what a file holds: itself, or each member of a zip archive.

    What it is packed with shows in its first bytes, or else in its suffix. `where` begins each error. Reading raises
    UserError for a file that is cut off, damaged or not what its suffix says; errors of `file` itself pass through.
    """
    watched = Watched(file)
    buffered = io.BufferedReader(watched, BUFFER)
    kind = packing(buffered.peek(HEAD), name)
    if kind is None:
        yield name, buffered
    elif kind == "zip":
        yield from zip_members(watched, name, where)
    elif not buffered.peek(1):
        raise UserError(f"{where} is empty, and a {kind} file never is: copy it again")
    elif kind == "zstd":
        yield name, io.BufferedReader(_Zstd(buffered, watched, where), BUFFER)
    else:
        yield name, io.BufferedReader(_Members(buffered, kind, where), BUFFER)


def packing(head: bytes, name: str) -> str | None:
    """Return what a file is packed with, by its first bytes or else its suffix; None where it is not packed."""
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    return suffix_packing(name)


def suffix_packing(name: str) -> str | None:
    """Return what a file is packed with, as its suffix says."""
    path = name.split("?")[0] if "://" in name else name
    return next((kind for suffix, kind in SUFFIXES.items() if path.lower().endswith(suffix)), None)


class _Gzip:
    """zlib's decompressor with the interface of the others. It checks the CRC and the length of a member."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int = -1, /) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max(0, max_length))


DECODERS: dict[str, Callable[[], Decoder]] = {
    "gzip": _Gzip,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


class _Members(io.RawIOBase):
    """The unpacked bytes of all members of a gzip, bzip2 or xz file."""

    def __init__(self, packed: BinaryIO, kind: str, where: str) -> None:
        self._packed, self._kind, self._where = packed, kind, where
        self._decoder: Decoder | None = DECODERS[kind]()
        self._rest = b""  # read from the file, and not yet given to a decoder
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._decoder is not None:
            data = self._unpack(self._decoder, len(buffer))
            if self._decoder.eof:
                self._decoder = self._next(self._decoder.unused_data)
            if data:
                buffer[: len(data)] = data
                self._given += len(data)
                return len(data)
        return 0

    def _unpack(self, decoder: Decoder, most: int) -> bytes:
        hungry = decoder.needs_input
        piece = self._piece() if hungry else b""
        try:
            data = decoder.decompress(piece, most)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
            raise damaged(self._where, self._kind, self._given, error) from None
        if hungry and not (piece or data or decoder.eof):
            raise cut_off(self._where, self._kind, self._given)
        return data

    def _piece(self) -> bytes:
        piece, self._rest = self._rest or self._packed.read(PIECE), b""
        return piece

    def _next(self, rest: bytes) -> Decoder | None:
        """Return a decoder for the next member, or None at the end of the file."""
        while not (rest := rest.lstrip(b"\0")):
            if not (rest := self._packed.read(PIECE)):
                return None
        self._rest = rest
        return DECODERS[self._kind]()


class _Zstd(io.RawIOBase):
    """The unpacked bytes of all frames of a zstd file. Arrow unpacks them, and says where a frame is not complete."""

    def __init__(self, packed: BinaryIO, watched: Watched, where: str) -> None:
        import pyarrow

        self._watched, self._where = watched, where
        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(packed, mode="r"), "zstd")
        self._given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data: bytes = self._stream.read(len(buffer))
        except (OSError, ValueError) as error:
            if self._watched.error is not None:
                raise self._watched.error from None
            if "Truncated" in str(error):
                raise cut_off(self._where, "zstd", self._given) from None
            raise damaged(self._where, "zstd", self._given, error) from None
        buffer[: len(data)] = data
        self._given += len(data)
        return len(data)
