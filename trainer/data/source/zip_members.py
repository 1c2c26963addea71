"""The files of a zip archive, whose checksums are compared."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from trainer.contract.errors import UserError
from trainer.data.source.damage import BUFFER, Watched, cut_off, damaged


def zip_members(watched: Watched, name: str, where: str) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the files of a zip archive, in its order. Hidden ones, such as those that macOS adds, are left out."""
    try:
        archive = zipfile.ZipFile(watched)  # type: ignore[arg-type]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        if watched.error is not None:
            raise watched.error from None
        raise UserError(f"{where} is cut off or damaged: {error}; copy it again") from None
    for member in archive.infolist():
        hidden = any(step.startswith((".", "__")) for step in member.filename.split("/"))
        if not member.is_dir() and not hidden:
            stream = _ZipMember(archive, member, watched, f"{where}, {member.filename},")
            yield f"{name}/{member.filename}", io.BufferedReader(stream, BUFFER)


class _ZipMember(io.RawIOBase):
    """One file of a zip archive, whose CRC is checked at its end."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, watched: Watched, where: str) -> None:
        self._watched, self._where, self._given = watched, where, 0
        self._stream = self._checked(lambda: archive.open(member))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data: bytes = self._checked(lambda: self._stream.read(len(buffer)))
        buffer[: len(data)] = data
        self._given += len(data)
        return len(data)

    def _checked(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except EOFError:
            raise cut_off(self._where, "zip", self._given) from None
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, ValueError, RuntimeError) as error:
            if self._watched.error is not None:
                raise self._watched.error from None
            raise damaged(self._where, "zip", self._given, error) from None
