"""The manifest of a checkpoint: what exists, where, and with which hash. Free of torch.

A checkpoint is a directory `step_<n>` with one safetensors file for each rank that wrote, and `manifest.json`, which
is written last. It describes the parameters of the run, not the ranks: every value has one home, a flat range of one
tensor share of one parameter. A loader on any layout reads the ranges that it needs.

    {"format": 1, "step": 100, "architecture": {...}, "state": {...}, "optimizer": {"step": 100},
     "parameters": {NAME: [rows, columns]},
     "files": {FILE: {"bytes": n, "sha256": hex, "shares": {NAME: {"dim": 0, "pieces": [[0, 64]], "range": [0, 512]}}}}}

A file holds for each share the tensors `NAME|weight` and one `NAME|<moment>` for each moment of the optimizer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import UserError

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step_(\d+)")


class FormatError(UserError):
    """A checkpoint of another format: sound, so it is not passed over, but not for this version."""


@dataclass(frozen=True)
class Share:
    """A flat range [start, stop) of a tensor share, which is the pieces [a, b) along `dim` of the whole parameter."""

    dim: int | None
    pieces: tuple[tuple[int, int], ...]
    range: tuple[int, int]


@dataclass(frozen=True)
class File:
    """One rank's file."""

    bytes: int
    sha256: str
    shares: dict[str, Share] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """See the module's text. `architecture` is what must agree for the parameters to mean the same."""

    step: int
    architecture: dict[str, Any]
    state: dict[str, Any]
    optimizer: dict[str, Any]
    parameters: dict[str, tuple[int, ...]]
    files: dict[str, File]
    layout: str = ""
    format: int = FORMAT

    def to_json(self) -> str:
        """Return the manifest as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what `to_json` wrote. Raises `FormatError` for a format that this version does not read."""
        values = json.loads(text)
        if values.get("format") != FORMAT:
            raise FormatError(
                f"a checkpoint has format {values.get('format')}, this version reads format {FORMAT}: go on with the "
                "version that wrote it; or there `escala checkpoint convert RUN DIR --to huggingface`, here "
                "`escala checkpoint convert DIR NEW --to checkpoint`, and begin from NEW (checkpoint.load: warm_start)"
            )
        files = {name: file_from_json(entry) for name, entry in values.pop("files").items()}
        parameters = {name: tuple(shape) for name, shape in values.pop("parameters").items()}
        return cls(**values, files=files, parameters=parameters)


def file_from_json(entry: dict[str, Any]) -> File:
    """Read one entry of `files`."""
    shares = {
        name: Share(share["dim"], tuple((a, b) for a, b in share["pieces"]), (share["range"][0], share["range"][1]))
        for name, share in entry["shares"].items()
    }
    return File(entry["bytes"], entry["sha256"], shares)


def read_manifest(checkpoint: Path) -> Manifest:
    """Return a checkpoint's manifest. Raises `UserError` where there is none or it cannot be read."""
    path = checkpoint / MANIFEST
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{checkpoint} is no complete checkpoint: it has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def file_problem(checkpoint: Path, name: str, expected: File) -> str | None:
    """Return what is wrong with one file of a checkpoint, or None."""
    path = checkpoint / name
    if not path.exists():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != expected.bytes:
        return f"{name} has {size} bytes instead of {expected.bytes}"
    if hash_file(path) != expected.sha256:
        return f"{name} does not have the hash that was recorded when it was written"
    return None


def find_problems(checkpoint: Path) -> list[str]:
    """Return what is wrong with a checkpoint; an empty list for a sound one. Reads every byte."""
    try:
        manifest = read_manifest(checkpoint)
    except UserError as error:
        return [str(error)]
    problems = [file_problem(checkpoint, name, file) for name, file in manifest.files.items()]
    return [problem for problem in problems if problem is not None]


def step_of(checkpoint: Path) -> int | None:
    """Return the step of a checkpoint's directory name, or None where it is not one."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def checkpoint_name(step: int) -> str:
    """Return the directory name of the checkpoint after so many steps."""
    return f"step_{step:09d}"


def list_checkpoints(root: Path) -> list[Path]:
    """Return the checkpoints under a directory, newest first, whether sound or not."""
    if not root.is_dir():
        return []
    found = [(step, path) for path in root.iterdir() if (step := step_of(path)) is not None and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def newest_first(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield checkpoints with their problems, newest first, verifying each only when it is asked for."""
    for path in list_checkpoints(root):
        yield path, find_problems(path)


def latest_valid(root: Path) -> tuple[Path | None, list[str]]:
    """Return the newest sound checkpoint under a directory, and a sentence for each newer one that was passed over."""
    passed: list[str] = []
    for path, problems in newest_first(root):
        if not problems:
            return path, passed
        passed.append(f"{path.name} was passed over: {'; '.join(problems)}")
    return None, passed
