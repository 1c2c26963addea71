"""Which shards a run trains on: those that were published when it began, whatever is prepared since.

The note lies in the run directory, so restarts and other nodes find it. Only counts are noted: the shards that a set
has published stay what they are, and new ones are added at the end of each split.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.contract.errors import UserError
from trainer.contract.run_dir import write_atomically
from trainer.data.store.manifest import Manifest

Begin = Literal["complete", "published"]


class Note(BaseModel):
    """What is noted: a hash of the set, and how many shards each split had. What else is there is for people."""

    model_config = ConfigDict(strict=True, frozen=True)
    data_hash: str
    shards: dict[str, int]


def pin(note: Path, manifest: Manifest, begin: Begin) -> Manifest:
    """Return the set as the run keeps to it. The first to come notes it, everybody else takes what is noted.

    Raises UserError for a set that is still being prepared, unless the run may `begin` with what is published, and
    for one that was made anew since.
    """
    if not note.exists():
        if begin == "complete" and not manifest.complete:
            raise UserError(
                f"the data {manifest.name!r} are still being prepared, {manifest.tokens('train'):,} training tokens so "
                f"far: wait for the end, or train on these with data.begin=published"
            )
        _write_once(note, manifest)
    return pinned(note, manifest)


def pinned(note: Path, manifest: Manifest) -> Manifest:
    """Return the set as it is noted; as it is now where nothing is noted yet."""
    if not note.exists():
        return manifest
    noted = _read(note, manifest)
    if noted.data_hash == manifest.data_hash:
        return manifest
    known = manifest.prefix(noted.shards)
    if known.data_hash != noted.data_hash:
        raise UserError(
            f"this run began with other data: hash {noted.data_hash} in {note}, {known.data_hash} in the set "
            f"{manifest.name!r} now. Give it those data again, or start a run of another name"
        )
    return known


def _read(note: Path, manifest: Manifest) -> Note:
    try:
        return Note.model_validate_json(note.read_bytes())
    except (OSError, ValidationError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise UserError(
            f"{note} says with which data the run began, and is damaged: {problem}. Remove it if the set "
            f"{manifest.name!r} is still what it was, or start a run of another name"
        ) from None


def _write_once(note: Path, manifest: Manifest) -> None:
    values = {
        "data_hash": manifest.data_hash,
        "complete": manifest.complete,
        "shards": {split: len(shards) for split, shards in manifest.splits.items()},
        "tokens": {split: manifest.tokens(split) for split in manifest.splits},
    }
    mine = note.with_name(f".{note.name}.{os.getpid()}.new")
    write_atomically(mine, json.dumps(values, indent=1) + "\n")
    try:
        os.link(mine, note)  # unlike a rename, it never replaces what another attempt noted first
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        mine.replace(note)
    finally:
        mine.unlink(missing_ok=True)
