"""Tell damage of a file, which stays, from trouble in reading it, which may pass."""

from __future__ import annotations

import errno
import io
from typing import Any, BinaryIO

from trainer.contract.errors import UserError

BUFFER = 1 << 20  # bytes that are read and unpacked at a time
HEAD = 16  # bytes by which a file shows what it is


class Watched(io.RawIOBase):
    """A file whose own errors are remembered: whatever else goes wrong in a decoder is damage, and stays."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: Exception | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        with _Remembered(self):
            data = self._file.read(len(buffer))
            while data and len(data) < min(HEAD, len(buffer)) and (more := self._file.read(len(buffer) - len(data))):
                data += more  # or a file could not be told by its beginning
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return int(self._file.seek(offset, whence))
        except Exception as error:
            # A decoder that asks for a place before the beginning, as zipfile does of a file of a few bytes, shows
            # damage. Local files answer EINVAL, those of fsspec ValueError.
            if not isinstance(error, ValueError) and getattr(error, "errno", None) != errno.EINVAL:
                self.error = error
            raise

    def tell(self) -> int:
        return int(self._file.tell())


class _Remembered:
    """Notes an error of the file below in its `Watched`, and lets it pass."""

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self.watched.error = error


def cut_off(where: str, kind: str, given: int) -> UserError:
    """Return the error of a file that ends too early, after so many unpacked bytes."""
    return UserError(f"{where} is cut off: its {kind} data stop before their end, after {given:,} bytes; copy it again")


def damaged(where: str, kind: str, given: int, error: Exception) -> UserError:
    """Return the error of a file that cannot be unpacked, after so many unpacked bytes."""
    return UserError(f"{where} is damaged, or not {kind}, after {given:,} bytes: {error}; copy it again")
