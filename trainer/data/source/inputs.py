"""The files of a source: which there are, and how one notices that one has changed."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict

from trainer.config.data import SourceConfig
from trainer.contract.errors import UserError
from trainer.data.source import embedded

# What file systems call the identity of a content, the best first, and else the time of its last change.
STAMPS = (
    "ETag", "etag", "md5Hash", "crc32c", "blob_id", "Content-MD5", "Digest",
    "LastModified", "last_modified", "Last-Modified", "updated", "mtime",
)  # fmt: skip
NAMED = 4  # changes that a message spells out
EMBEDDED = "embedded"


class InputFile(BaseModel):
    """A file as it was when it was listed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # a path or an address, as it is opened
    size: int | None  # in bytes; None where a server does not say
    stamp: str  # entity tag, or time of the last change

    @property
    def key(self) -> str:
        """The name, without the commit of the hub: a new commit may leave the file as it was."""
        return re.sub(r"^(hf://[^@]+)@[0-9a-f]{40}/", r"\1/", self.name)

    def differs(self, other: InputFile) -> bool:
        """Return whether the content of a file of the same key may be another."""
        return (self.size, self.stamp) != (other.size, other.stamp)


@dataclass(frozen=True)
class InputChanges:
    """How the files of a source differ from those that were listed earlier."""

    added: tuple[InputFile, ...]
    removed: tuple[InputFile, ...]
    changed: tuple[tuple[InputFile, InputFile], ...]  # (earlier, now)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        """Name what was added, removed and changed."""
        groups = (
            ("added", [file.name for file in self.added]),
            ("removed", [file.name for file in self.removed]),
            ("changed", [f"{then.name} ({_difference(then, now)})" for then, now in self.changed]),
        )
        return "; ".join(f"{what}: {_some(names)}" for what, names in groups if names)


def compare(earlier: Iterable[InputFile], now: Iterable[InputFile]) -> InputChanges:
    """Return what differs between two lists of files, by their names."""
    old, new = ({file.key: file for file in files} for files in (earlier, now))
    return InputChanges(
        added=tuple(file for name, file in new.items() if name not in old),
        removed=tuple(file for name, file in old.items() if name not in new),
        changed=tuple((old[name], new[name]) for name in old if name in new and old[name].differs(new[name])),
    )


def _difference(then: InputFile, now: InputFile) -> str:
    if then.size != now.size:
        return f"{then.size} bytes then, {now.size} now"
    return f"{then.stamp} then, {now.stamp} now"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def list_files(config: SourceConfig) -> list[InputFile]:
    """Return the files that the path of a source names, in the order in which they are read.

    A path that is there as it is written is that file, whatever `*`, `?` or `[` it has. Raises UserError where there
    is no file, where one cannot be looked at, and where all are empty.
    """
    files = _remote_files(config) if is_remote_path(config.path) else _local_files(config)
    if not files:
        raise UserError(f"source {config.tag!r}: there is no file {config.path}")
    if not any(file.size != 0 for file in files):
        raise UserError(f"source {config.tag!r}: {config.path} is empty ({len(files)} file(s) of 0 bytes)")
    return files


def is_remote_path(path: str) -> bool:
    """Return whether a path is an address that fsspec opens."""
    return "://" in path or "::" in path


def embedded_files() -> list[InputFile]:
    """Return the embedded text as one file, which changes with the Python that carries it."""
    sizes = [(name, path.stat().st_size) for name, path in embedded.files()]
    digest = hashlib.sha256(repr(sizes).encode()).hexdigest()[:16]
    stamp = f"Python {platform.python_version()}, {digest}"
    return [InputFile(name=EMBEDDED, size=sum(size for _, size in sizes), stamp=stamp)]


def look(name: str, config: SourceConfig, *, again: bool = False) -> InputFile:
    """Return a file as it is now; with `again`, whatever was remembered of a remote one.

    Raises UserError where it is gone, and errors of a remote file system.
    """
    if name == EMBEDDED:
        return embedded_files()[0]
    if not is_remote_path(name):
        return _look(name, config.tag)
    system, path = _file_system(name, config)
    if again:
        system.invalidate_cache()
    return _noted(name, system.info(path))


def open_file(file: InputFile, config: SourceConfig) -> BinaryIO:
    """Open a file to read its bytes as they are."""
    if not is_remote_path(file.name):
        return Path(file.name).open("rb", buffering=0)
    system, path = _file_system(file.name, config)
    opened: BinaryIO = system.open(path, "rb")
    return opened


def _local_files(config: SourceConfig) -> list[InputFile]:
    path = Path(config.path)
    if path.is_dir():
        raise UserError(f"source {config.tag!r}: {path} is a directory; say which files in it, such as {path}/*.jsonl")
    if path.exists() or path.is_symlink():
        return [_look(config.path, config.tag)]
    names = sorted(set(glob.glob(config.path, recursive=True)))  # noqa: PTH207 - absolute patterns
    return [_look(name, config.tag) for name in names if not Path(name).is_dir()]


def _look(name: str, tag: str) -> InputFile:
    path = Path(name)
    try:
        name.encode()
    except UnicodeEncodeError:  # the list of files is JSON, which has no such name
        raise UserError(f"source {tag!r}: the name of {os.fsencode(name)!r} is not UTF-8; rename the file") from None
    try:
        found = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise UserError(
                f"source {tag!r}: {name} is a link to {path.readlink()}, which is not there; mend it or remove it"
            ) from None
        raise UserError(f"source {tag!r}: {name} is gone") from None
    except OSError as error:
        raise UserError(f"source {tag!r}: {name} cannot be read: {error.strerror}") from None
    if not path.is_file():
        raise UserError(f"source {tag!r}: {name} is not a file that can be read twice; write its content to a file")
    return InputFile(name=name, size=found.st_size, stamp=_time(found.st_mtime_ns))


def _time(nanoseconds: int) -> str:
    """Return a time of the file system, in UTC and in full."""
    import datetime

    seconds, rest = divmod(nanoseconds, 10**9)
    moment = datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest:09d}"


def _remote_files(config: SourceConfig) -> list[InputFile]:
    system, path = _file_system(config.path, config)
    if "::" in config.path:
        return [_noted(config.path, system.info(path))]
    try:
        infos = [system.info(path)]
    except FileNotFoundError:
        infos = list(system.glob(path, detail=True).values()) if set(path) & set("*?[") else []
    if any(info["type"] == "directory" for info in infos[:1]) and "*" not in path:
        raise UserError(f"source {config.tag!r}: {config.path} is a directory; say which files in it")
    infos = [info for info in infos if info["type"] == "file"]
    infos = [info if info.get("size") is not None else system.info(info["name"]) for info in infos]
    return [_noted(system.unstrip_protocol(info["name"]), info) for info in infos]


def _file_system(name: str, config: SourceConfig) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(name, **config.storage_options)
    except ImportError as error:
        raise UserError(f"source {config.tag!r} ({name}) needs a package that is not installed: {error}") from None
    except ValueError as error:  # an unknown protocol
        raise UserError(f"source {config.tag!r} ({name}) cannot be opened: {error}") from None
    return system, path


def _noted(name: str, info: dict[str, Any]) -> InputFile:
    stamp = next((str(info[key]) for key in STAMPS if info.get(key)), "")
    size = info.get("size")
    return InputFile(name=name, size=None if size is None else int(size), stamp=stamp.strip('"'))
