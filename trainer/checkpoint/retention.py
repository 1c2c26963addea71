"""Which checkpoints stay, and what is done with those that no longer count.

A run counts only what is complete and of its own trajectory. What is damaged, or of a course that the run left, is
moved to `set_aside/`: never resumed from, never counted, never the reason to delete a sound one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainer.checkpoint.manifest import FormatError, list_checkpoints, read_manifest
from trainer.checkpoint.search import sizes_problem
from trainer.contract.errors import UserError

SET_ASIDE = "set_aside"
DAMAGED, ABANDONED = "damaged", "abandoned"


def steps_to_delete(
    steps: Iterable[int], *, keep_last: int, keep_every: int | None, keep_at: Collection[int] = ()
) -> list[int]:
    """Return the steps whose checkpoints go: all but the newest `keep_last`, multiples of `keep_every` and `keep_at`.

    The newest always stays.
    """
    ordered = sorted(set(steps), reverse=True)
    kept = {*ordered[: max(keep_last, 1)], *keep_at}
    return [step for step in ordered if step not in kept and not (keep_every and step % keep_every == 0)]


@dataclass(frozen=True)
class Misplaced:
    """A checkpoint that the run must not count: `reason` is DAMAGED or ABANDONED, `problem` a sentence."""

    checkpoint: Path
    reason: str
    problem: str


def misplaced(checkpoint: Path, *, trajectory: str, newest: int) -> Misplaced | None:
    """Return why a checkpoint does not count for a run on this trajectory that has `newest` steps done, or None.

    One of format 1 names no trajectory and counts. Files are not read, only their sizes.
    """
    try:
        manifest = read_manifest(checkpoint)
        problem = sizes_problem(checkpoint, manifest)
    except FormatError:
        return Misplaced(checkpoint, ABANDONED, "another version of Escala wrote it")
    except UserError as error:
        return Misplaced(checkpoint, DAMAGED, str(error))
    if problem:
        return Misplaced(checkpoint, DAMAGED, problem)
    if manifest.trajectory not in ("", trajectory):
        return Misplaced(checkpoint, ABANDONED, "it is of another start of the run")
    if manifest.step > newest:
        return Misplaced(checkpoint, ABANDONED, f"the run went on from step {newest}")
    return None


def misplaced_among(root: Path, count: int, *, trajectory: str, newest: int) -> Iterator[Misplaced]:
    """Yield those that are misplaced among the newest checkpoints, newest first, until `count` were seen that count."""
    for path in list_checkpoints(root):
        if count == 0:
            return
        found = misplaced(path, trajectory=trajectory, newest=newest)
        if found is None:
            count -= 1
        else:
            yield found


def set_aside(checkpoint: Path, reason: str) -> Path:
    """Move a checkpoint out of the run's sight and return where it lies now.

    One that was set aside earlier at the same step for the same reason gives way, so that a run which begins again
    and again does not fill the disk. Raises OSError.
    """
    target = checkpoint.parent / SET_ASIDE / f"{checkpoint.name}-{reason}"
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        shutil.rmtree(target)
    checkpoint.rename(target)
    sync(checkpoint.parent)
    return target


def list_set_aside(root: Path) -> list[Path]:
    """Return what was set aside of a run's checkpoints, by name."""
    directory = root / SET_ASIDE
    return sorted(directory.iterdir()) if directory.is_dir() else []


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint: it ceases to exist in one step, and its bytes go after that."""
    gone = checkpoint.with_name(f".{checkpoint.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def sync(path: Path) -> None:
    """Have the operating system put a file or a directory's entries on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
