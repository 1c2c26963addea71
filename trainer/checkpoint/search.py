"""Which checkpoint to take: the newest one that is sound. Whatever is wrong with one, the next older is tried.

Everything that looks for a checkpoint does it here: a run that goes on, a warm start, `escala checkpoint`, `escala
sample`, and launchers before they start ranks. Free of torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.checkpoint.manifest import (
    FormatError,
    Manifest,
    file_problem,
    list_checkpoints,
    parse_manifest,
    read_manifest,
    read_text,
    size_problem,
    step_of,
)
from trainer.contract.errors import UserError

ProblemOf = Callable[[Path, Manifest], str | None]


@dataclass(frozen=True)
class Candidate:
    """A checkpoint that was found: its manifest's text, or what is wrong with it."""

    path: str
    text: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Passed:
    """A checkpoint that was passed over, by its directory's name, and why."""

    checkpoint: str
    problem: str

    def row(self) -> dict[str, str]:
        """Return it as an event holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """The checkpoint to take, or None, and the newer ones that were passed over."""

    checkpoint: Path | None
    manifest: Manifest | None
    passed: tuple[Passed, ...]


def root_of(source: Path) -> Path:
    """Return where to look for checkpoints: a run directory holds them below, a checkpoint is one itself."""
    if step_of(source) is None and (source / "checkpoints").is_dir():
        return source / "checkpoints"
    return source


def candidates(root: Path) -> Iterator[Candidate]:
    """Yield the checkpoints of a directory, newest first, each read only when it is asked for.

    `root` may itself be a checkpoint. Raises `UserError` where the directory cannot be listed.
    """
    for path in [root] if step_of(root) is not None else list_checkpoints(root):
        try:
            yield Candidate(str(path), read_text(path))
        except UserError as error:
            yield Candidate(str(path), problem=str(error))


def first_sound(found: Iterable[Candidate], problem_of: ProblemOf) -> Found:
    """Return the first candidate whose manifest can be read and with which `problem_of` finds nothing wrong.

    Raises `FormatError` for a sound checkpoint that another version wrote: passing it over would give up its steps.
    """
    passed: list[Passed] = []
    for candidate in found:
        path, problem = Path(candidate.path), candidate.problem
        if problem is None:
            try:
                manifest = parse_manifest(candidate.text, path)
            except FormatError:
                raise
            except UserError as error:
                problem = str(error)
            else:
                problem = problem_of(path, manifest)
                if problem is None:
                    return Found(path, manifest, tuple(passed))
        passed.append(Passed(path.name, problem))
    return Found(None, None, tuple(passed))


def newest_sound(root: Path, problem_of: ProblemOf | None = None) -> Found:
    """Return the newest sound checkpoint of a directory. By default every byte of it is read."""
    return first_sound(candidates(root), problem_of or bytes_problem)


def sound_checkpoint(source: Path) -> tuple[Path, Manifest]:
    """Return the checkpoint that a path means, itself or the newest sound one of a run directory, and its manifest.

    Newer ones that are passed over are named on standard error. Raises `UserError` where none is sound.
    """
    found = newest_sound(root_of(source))
    sentences = [f"{row.checkpoint} was passed over: {row.problem}" for row in found.passed]
    if found.checkpoint is None or found.manifest is None:
        raise UserError("; ".join([f"{source} holds no {'sound ' if sentences else ''}checkpoint", *sentences]))
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)
    return found.checkpoint, found.manifest


def bytes_problem(checkpoint: Path, manifest: Manifest) -> str | None:
    """Return what is wrong with a checkpoint's files, or None. Reads every byte."""
    problems = (file_problem(checkpoint, name, file) for name, file in manifest.files.items())
    return "; ".join(problem for problem in problems if problem) or None


def sizes_problem(checkpoint: Path, manifest: Manifest) -> str | None:
    """Return what is wrong with the presence and sizes of a checkpoint's files, or None. Reads none of them."""
    problems = (size_problem(checkpoint, name, file) for name, file in manifest.files.items())
    return "; ".join(problem for problem in problems if problem) or None


def problem_with(checkpoint: Path, problem_of: ProblemOf = bytes_problem) -> str | None:
    """Return what is wrong with one checkpoint, or None for a sound one."""
    try:
        return problem_of(checkpoint, read_manifest(checkpoint))
    except UserError as error:
        return str(error)


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint can be gone on from as far as its manifest and the sizes of its files tell."""
    return problem_with(checkpoint, sizes_problem) is None
