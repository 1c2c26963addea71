"""Which configuration a directory belongs to: checked and noted under one lock, so that two never share it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from filelock import FileLock

from trainer.config.data import DataConfig
from trainer.config.differences import differences
from trainer.contract.errors import UserError
from trainer.contract.run_dir import write_atomically
from trainer.data.prepare.parts import PARTS, Part, PartRecord
from trainer.data.source import input_list
from trainer.data.store.manifest import FILE, Manifest
from trainer.data.tokenize.tokenizer import DIRECTORY

CONFIG = "config.json"


def set_lock(root: Path) -> FileLock:
    """Return the lock under which everything that belongs to the whole set is read, decided and written."""
    (root / PARTS).mkdir(parents=True, exist_ok=True)
    return FileLock(root / PARTS / "set.lock")


@contextmanager
def claimed(root: Path, config: DataConfig) -> Iterator[None]:
    """Hold the lock of a set, whose directory belongs to this configuration from now on.

    The claim is taken back where a user's error leaves nothing else. Raises UserError where the directory belongs to
    another configuration, which may have been started at the same time.
    """
    with set_lock(root):
        refuse_other_set(root, config)
        note = root / PARTS / CONFIG
        if not note.exists():
            write_atomically(note, json.dumps(config.content(), indent=1) + "\n")
        try:
            yield
        except UserError:
            notes = (note, root / PARTS / input_list.FILE)
            if not any(path.is_file() and path.suffix != ".lock" and path not in notes for path in root.rglob("*")):
                for path in notes:
                    path.unlink(missing_ok=True)
            raise


def release(root: Path, done: dict[Part, PartRecord]) -> None:
    """Remove what a preparation left that nobody can use: a corrected configuration can have the directory."""
    for part, record in done.items():
        for shard in chain.from_iterable(record.splits.values()):
            for suffix in (".bin", ".docs", ".xxh"):
                (root / f"{shard.file}{suffix}").unlink(missing_ok=True)  # where this was interrupted before
        part.record(root).with_suffix(".digests").unlink(missing_ok=True)
        part.record(root).unlink()
    shutil.rmtree(root / DIRECTORY)
    for name in (input_list.FILE, CONFIG):
        (root / PARTS / name).unlink(missing_ok=True)


def refuse_other_set(root: Path, config: DataConfig) -> None:
    """Raise UserError where the directory belongs to another configuration."""
    mine, note = config.content(), root / PARTS / CONFIG
    if (root / FILE).exists():
        theirs = Manifest.open(root).config
    elif note.exists():
        theirs = json.loads(note.read_text(encoding="utf-8"))
    else:
        return
    if theirs != mine:
        raise UserError(
            f"{root} holds data of another configuration ({differences(theirs, mine, 'data')}). "
            f"Give this one another data.name, or remove that directory"
        )
