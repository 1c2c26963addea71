"""The tokenizer that a run carries: a copy of its set's, so that it can be sampled from wherever its directory lies."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec

from trainer.config.data import DataConfig
from trainer.contract.errors import UserError
from trainer.data.source.retry import short
from trainer.data.store.cache import is_remote
from trainer.data.tokenize.tokenizer import DIRECTORY, META, Tokenizer, load_tokenizer


def keep_tokenizer(target: Path, data: DataConfig, expected: str) -> bool:
    """Copy the tokenizer of a set, local or remote, to a directory of the run. Returns whether it lies there.

    It does not where the set has none, or the disk no room: then a warning says so, and training goes on. Raises
    UserError where it is not the tokenizer of hash `expected`, with which the tokens were made.
    """
    if not _is_there(target, expected):
        files = _read_remote(data.directory) if is_remote(data.root) else _read_local(Path(data.directory))
        if not files:
            _warn(f"{data.directory} has no {DIRECTORY}/{META}")
            return False
        try:
            _write(target, files)
        except OSError as error:
            _warn(f"the tokenizer could not be copied to {target}: {error}")
            return False
    if (found := load_tokenizer(target).hash) != expected:
        raise UserError(
            f"the tokenizer of {data.directory} is another one: its hash is {found}, the tokens were made with "
            f"{expected}; put that one back, or remove the set and prepare it again"
        )
    return True


def tokenizer_of_run(kept: Path, data: DataConfig, expected: str | None) -> Tokenizer:
    """Return the tokenizer of a run, as `directory_of_run` finds it; None as `expected` accepts any."""
    with directory_of_run(kept, data, expected) as directory:
        return load_tokenizer(directory)


@contextmanager
def directory_of_run(kept: Path, data: DataConfig | None, expected: str | None) -> Iterator[Path]:
    """Give the directory of a run's tokenizer: the one that it carries, else (earlier versions) that of its set.

    A relative `data.root` means the working directory, or one above the run. That of a remote set is a copy that goes
    away at the end. Raises UserError where no tokenizer with the hash `expected` is found.
    """
    if (kept / META).exists():
        yield _checked(kept, expected, str(kept))
        return
    if data is not None and is_remote(data.root):
        with tempfile.TemporaryDirectory() as scratch:
            if files := _read_remote(data.directory):
                _write(Path(scratch), files)
                yield _checked(Path(scratch), expected, data.directory)
                return
    for place in [] if data is None or is_remote(data.root) else _places(data.directory, kept):
        if (place / DIRECTORY / META).exists() and (expected is None or _hash_in(place / DIRECTORY) == expected):
            yield place / DIRECTORY
            return
    beside = f", and none of this run at {data.directory}, seen from here or from above the run" if data else ""
    raise UserError(
        f"there is no tokenizer in {kept}{beside}: copy the directory {DIRECTORY} of its data set to {kept}"
    )


def _places(directory: str, kept: Path) -> list[Path]:
    """Return what a directory may mean to a run whose own tokenizer would be at `kept`."""
    return [Path(directory), *(parent / directory for parent in kept.resolve().parents)]


def _checked(directory: Path, expected: str | None, where: str) -> Path:
    if expected is not None and (found := load_tokenizer(directory).hash) != expected:
        raise UserError(
            f"the tokenizer in {where} is another one: its hash is {found}, the model was trained with {expected}; put "
            "that one back"
        )
    return directory


def _is_there(directory: Path, expected: str) -> bool:
    return (directory / META).exists() and _hash_in(directory) == expected


def _hash_in(directory: Path) -> str | None:
    try:
        found: str | None = json.loads((directory / META).read_text(encoding="utf-8"))["hash"]
    except (ValueError, KeyError, TypeError):
        return None  # torn or another's: it is copied again, or not taken
    return found


def _read_local(root: Path) -> dict[str, bytes]:
    """Return the files of a set's tokenizer, the note last. Empty where it has none."""
    directory = root / DIRECTORY
    if not (directory / META).exists():
        return {}
    note = (directory / META).read_bytes()
    try:
        return {name: (directory / name).read_bytes() for name in _named_in(note, str(directory))} | {META: note}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} is missing; remove the set and prepare it again") from None


def _read_remote(url: str) -> dict[str, bytes]:
    where = f"{url.rstrip('/')}/{DIRECTORY}"
    try:
        with fsspec.open(f"{where}/{META}", "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return {}
    except Exception as error:  # file systems raise the errors of their own libraries
        raise UserError(f"cannot read {where}/{META}: {short(error)}") from None
    files = {}
    for name in _named_in(content, where):
        try:
            with fsspec.open(f"{where}/{name}", "rb") as file:
                files[name] = file.read()
        except Exception as error:
            raise UserError(f"cannot read {where}/{name}: {short(error)}") from None
    return files | {META: content}


def _named_in(note: bytes, where: str) -> list[str]:
    """Return the names of the files that a note names: one, or none for a tokenizer without a model."""
    try:
        name = json.loads(note).get("file")
    except (ValueError, AttributeError):
        raise UserError(f"{where}/{META} is not the note of a tokenizer") from None
    if name is not None and Path(str(name)).name != name:
        raise UserError(f"{where}/{META} names a file outside of its directory: {name!r}")
    return [name] if name else []


def _write(target: Path, files: dict[str, bytes]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():  # the note comes last: what it names is there
        temporary = target / f".{name}.{os.getpid()}"
        try:
            temporary.write_bytes(content)
            temporary.replace(target / name)
        finally:
            temporary.unlink(missing_ok=True)


def _warn(what: str) -> None:
    print(f"warning: {what}: no bits per byte, and escala sample has no text", file=sys.stderr, flush=True)
