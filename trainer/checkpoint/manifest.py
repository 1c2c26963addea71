"""The manifest of a checkpoint: what exists, where, and with which hash. Free of torch.

A checkpoint is a directory `step_<n>` with one safetensors file for each rank that wrote, and `manifest.json`, which
is written last. It describes the parameters of the run, not the ranks: every value has one home, a flat range of one
tensor share of one parameter. A loader on any layout reads the ranges that it needs.

    {"step": 100, "architecture": {...}, "state": {...}, "optimizer": {"name": "adamw", "step": 100},
     "parameters": {NAME: [rows, columns]},
     "files": {FILE: {"bytes": n, "sha256": hex, "shares": {NAME: {"dim": 0, "pieces": [[0, 64]], "range": [0, 512]}}}},
     "layout": "...", "trajectory": hex, "format": 2,
     "sha256": hex of all bytes before it}

A file holds for each share the tensors `NAME|weight` and one `NAME|<moment>` for each moment of the optimizer, and what
lanes carry from step to step (`carried.py`).
Format 1 had neither `trajectory` nor a hash of itself. It is still read, with the checks of `contents.py` alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from trainer.checkpoint.contents import contents_problem
from trainer.contract.errors import UserError

FORMAT, UNSEALED_FORMAT = 2, 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step_(\d+)")
_SEAL = b',\n "sha256": "'
_STRICT = ConfigDict(extra="forbid")

Size = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+\.safetensors$")]  # beside the manifest, never elsewhere


class FormatError(UserError):
    """A checkpoint of another format: sound, so it is not passed over, but not for this version."""


@dataclass(frozen=True, config=_STRICT)
class Share:
    """A flat range [start, stop) of a tensor share, which is the pieces [a, b) along `dim` of the whole parameter."""

    dim: Size | None
    pieces: tuple[tuple[Size, Size], ...]
    range: tuple[Size, Size]


@dataclass(frozen=True, config=_STRICT)
class File:
    """One rank's file."""

    bytes: Size
    sha256: Sha256
    shares: dict[str, Share] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class Manifest:
    """See the module's text. `architecture` is what must agree for the parameters to mean the same.

    `trajectory` is shared by all checkpoints of one course of training: made when a run begins, kept when it goes on.
    """

    step: Size
    architecture: dict[str, Any]
    state: dict[str, Any]
    optimizer: dict[str, str | FiniteFloat]
    parameters: dict[str, tuple[Size, ...]]
    files: dict[FileName, File]
    layout: str = ""
    trajectory: Annotated[str, Field(pattern=r"^[0-9a-f]*$")] = ""
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the manifest as JSON that ends with the hash of all before it."""
        return seal(_MANIFEST.dump_json(self, indent=1)).decode()

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote. Raises `FormatError` for another format, and `ValueError` for what is damaged."""
        raw = text.encode()
        sealed = is_sealed(raw)
        try:
            manifest = _MANIFEST.validate_json(raw[: raw.rfind(_SEAL)] + b"\n}" if sealed else raw, strict=True)
            version: Any = manifest.format
            problem = contents_problem(manifest)
        except ValidationError as error:
            first = error.errors()[0]
            version = _format_of(text)
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        if sealed and version not in (FORMAT, UNSEALED_FORMAT):
            raise FormatError(
                f"a checkpoint has format {version}, this version reads formats {UNSEALED_FORMAT} and {FORMAT}: go on "
                "with the version that wrote it; or there `escala checkpoint convert RUN DIR --to huggingface`, here "
                "`escala checkpoint convert DIR NEW --to checkpoint`, and begin from NEW (checkpoint.load: warm_start)"
            )
        if not sealed and version != UNSEALED_FORMAT:
            raise ValueError("it does not end with the hash of its content")
        if problem:
            raise ValueError(problem)
        return manifest


def _format_of(text: str) -> Any:
    """Return the format of a manifest whose other fields may be unknown here. Raises ValueError for what is no JSON."""
    values = json.loads(text)
    return values.get("format") if isinstance(values, dict) else None


_MANIFEST = TypeAdapter(Manifest)
_FILE = TypeAdapter(File)


def seal(body: bytes) -> bytes:
    """Return a JSON object with its own SHA-256 as the last entry."""
    digest = hashlib.sha256(body).hexdigest().encode()
    return body.rstrip().removesuffix(b"\n}") + _SEAL + digest + b'"\n}\n'


def is_sealed(text: bytes) -> bool:
    """Return whether a text is what `seal` made of it: no bit of it was changed since."""
    at = text.rfind(_SEAL)
    return at >= 0 and seal(text[:at] + b"\n}") == text


def file_to_json(file: File) -> str:
    """Return one entry of `files` as JSON."""
    return _FILE.dump_json(file).decode()


def file_from_json(text: str) -> File:
    """Read what `file_to_json` wrote."""
    return _FILE.validate_json(text, strict=True)


def parse_manifest(text: str, checkpoint: Path) -> Manifest:
    """Read the text of a checkpoint's manifest. Raises `UserError` where it is damaged or another checkpoint's."""
    path = checkpoint / MANIFEST
    try:
        manifest = Manifest.from_json(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    named = step_of(checkpoint)
    if named is not None and named != manifest.step:
        raise UserError(f"{path} is of step {manifest.step}, but its directory says {named}")
    return manifest


def read_manifest(checkpoint: Path) -> Manifest:
    """Return a checkpoint's manifest. Raises `UserError` where there is none or it cannot be read."""
    return parse_manifest(read_text(checkpoint), checkpoint)


def read_text(checkpoint: Path) -> str:
    """Return the text of a checkpoint's manifest. Raises `UserError` where it cannot be read."""
    path = checkpoint / MANIFEST
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{checkpoint} is no complete checkpoint: it has no {MANIFEST}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: {error}") from None


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def size_problem(checkpoint: Path, name: str, expected: File) -> str | None:
    """Return what is wrong with one file's presence and size, or None. Reads nothing of it."""
    try:
        size = (checkpoint / name).stat().st_size
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"
    return None if size == expected.bytes else f"{name} has {size} bytes instead of {expected.bytes}"


def file_problem(checkpoint: Path, name: str, expected: File) -> str | None:
    """Return what is wrong with one file of a checkpoint, or None. Reads every byte."""
    if problem := size_problem(checkpoint, name, expected):
        return problem
    try:
        found = hash_file(checkpoint / name)
    except OSError as error:
        return f"{name} cannot be read: {error.strerror or error}"
    if found != expected.sha256:
        return f"{name} does not have the hash that was recorded when it was written"
    return None


def step_of(checkpoint: Path) -> int | None:
    """Return the step of a checkpoint's directory name, or None where it is not one."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def checkpoint_name(step: int) -> str:
    """Return the directory name of the checkpoint after so many steps."""
    return f"step_{step:09d}"


def rank_file(rank: int) -> str:
    """Return the name of a rank's file."""
    return f"rank_{rank:05d}.safetensors"


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoints under a directory, newest first, whether sound or not. Raises `UserError`."""
    try:
        found = [(step, path) for path in root.iterdir() if (step := step_of(path)) is not None and path.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{root} cannot be listed: {error.strerror or error}") from None
    return [path for _, path in sorted(found, reverse=True)]
