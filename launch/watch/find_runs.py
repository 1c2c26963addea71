"""Find run directories: by path, by the name of a run or a sweep, or all below a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.contract.errors import UserError, did_you_mean

DEEPEST = 4  # directories between a root and its runs: sweep, `cells`, cell, and one to sort them by
MARKS = ("config.yaml", "job.json")  # one of them is written first


def find_runs(root: Path, words: Sequence[str] = ()) -> list[Path]:
    """Return the run directories that are meant, in the order of their names; all below `root` without any word.

    A word is a run directory, a directory of runs such as a sweep, or the name of either below `root`. Raises
    `UserError` where one means nothing.
    """
    if not words:
        if not root.is_dir():
            raise UserError(f"there is no directory {root}; name the one that holds your runs")
        return list(_below(root, DEEPEST))
    return list(dict.fromkeys(run for word in words for run in _meant(root, word)))


def find_run(root: Path, word: str) -> Path:
    """Return the one run that a word means, as `find_runs` reads it. Raises `UserError` for none and for several."""
    first, *others = find_runs(root, [word])
    if others:
        raise UserError(f"{word!r} means {1 + len(others)} runs: name one of them, such as {first}")
    return first


def _meant(root: Path, word: str) -> list[Path]:
    for place in (Path(word), root / word):
        if place.is_dir() and (found := list(_below(place, DEEPEST))):
            return found
    every = list(_below(root, DEEPEST)) if root.is_dir() else []
    if found := [run for run in every if run.name == word]:
        return found
    known = dict.fromkeys(name for run in every for name in (run.name, sweep_of(run)) if name)
    raise UserError(f"no run {word!r} under {root}{did_you_mean(word, known)}")


def sweep_of(run: Path) -> str:
    """Return the name of the sweep whose cell a run is; "" for a run of its own."""
    return run.parent.parent.name if run.parent.name == "cells" else ""


def _below(place: Path, depth: int) -> Iterator[Path]:
    """Yield the runs at or below a directory. What is in a run is none."""
    if any((place / mark).is_file() for mark in MARKS):
        yield place
    elif depth:
        with os.scandir(place) as entries:
            names = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
        for name in names:
            yield from _below(place / name, depth - 1)
