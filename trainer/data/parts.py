"""Parts: the units in which a set is prepared, restarted and shared out over nodes; and the manifest made of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from trainer.config.data import HELD_OUT, TRAIN, DataConfig
from trainer.data.manifest import FILE, Manifest, Shard
from trainer.data.tokenizer import DIRECTORY, Tokenizer
from trainer.errors import UserError
from trainer.run_dir import write_atomically

PARTS = "parts"
CONFIG = "config.json"


@dataclass(frozen=True)
class Part:
    """One piece of one source. `held_out_set` marks a source that is only evaluated on."""

    source: int  # index into the sources, or into the held-out sets
    tag: str
    index: int
    of: int
    held_out_set: bool

    @property
    def name(self) -> str:
        return f"{self.tag}-{self.index:04d}"

    def record(self, root: Path) -> Path:
        return root / PARTS / f"{self.name}.json"


class PartRecord(BaseModel):
    """What a finished part gave. It is written when its shards are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    splits: dict[str, list[Shard]]
    documents: int
    duplicates: int  # training documents dropped because a held-out set has them
    text_hash: str  # SHA-256 over the texts as they were read


def in_order(parts: list[Part]) -> list[Part]:
    """Return held-out sets first, then all sources side by side: any prefix of the parts is a fair share of each."""
    return sorted(parts, key=lambda part: (not part.held_out_set, part.index / part.of, part.source))


def finished(root: Path, parts: list[Part]) -> dict[Part, PartRecord]:
    """Return the records of the parts that are done."""
    done = {}
    for part in parts:
        path = part.record(root)
        if path.exists():
            done[part] = PartRecord.model_validate_json(path.read_text(encoding="utf-8"))
    return done


def build_manifest(
    config: DataConfig, parts: list[Part], done: dict[Part, PartRecord], tokenizer: Tokenizer
) -> Manifest:
    """Return the manifest of the parts up to the first that is missing."""
    missing = next((i for i, part in enumerate(parts) if part not in done), len(parts))
    splits: dict[str, list[Shard]] = {TRAIN: [], HELD_OUT: []}
    documents: Counter[str] = Counter()
    duplicates: Counter[str] = Counter()
    texts: dict[str, list[str]] = {}
    for part in parts[:missing]:
        record = done[part]
        for split, shards in record.splits.items():
            splits.setdefault(split, []).extend(shards)
        documents[part.tag] += record.documents
        duplicates[part.tag] += record.duplicates
        texts.setdefault(part.tag, []).append(record.text_hash)
    report = {
        tag: {"documents_read": documents[tag], "dropped_because_held_out": duplicates[tag], "text_hashes": texts[tag]}
        for tag in documents
    }
    return Manifest(
        name=config.name,
        complete=missing == len(parts),
        dtype=dtype_for(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        tokenizer_hash=tokenizer.hash,
        config_hash=config.content_hash(),
        config=config.content(),
        splits=splits,
        report=report,
    )


def dtype_for(vocab_size: int) -> Any:
    """Return the narrowest type of a token id."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


@contextmanager
def claimed(root: Path, config: DataConfig) -> Iterator[None]:
    """Note which configuration this directory belongs to; take the note back where a user's error left nothing else.

    Raises UserError where the directory belongs to another configuration.
    """
    refuse_other_set(root, config)
    note = root / PARTS / CONFIG
    note.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps(config.content(), indent=1) + "\n")
    try:
        yield
    except UserError:
        if not any(path.is_file() and path.suffix != ".lock" and path != note for path in root.rglob("*")):
            note.unlink(missing_ok=True)
        raise


def release(root: Path, done: dict[Part, PartRecord]) -> None:
    """Remove what a preparation left that gave no training tokens: a corrected configuration can have the directory."""
    for part, record in done.items():
        for shard in chain.from_iterable(record.splits.values()):
            for suffix in (".bin", ".docs", ".xxh"):
                (root / f"{shard.file}{suffix}").unlink(missing_ok=True)  # where this was interrupted before
        part.record(root).with_suffix(".digests").unlink(missing_ok=True)
        part.record(root).unlink()
    shutil.rmtree(root / DIRECTORY)
    (root / PARTS / CONFIG).unlink()


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
        changes = "; ".join(list(_changes("", theirs, mine))[:4])
        raise UserError(
            f"{root} holds data of another configuration ({changes}). "
            f"Give this one another data.name, or remove that directory"
        )


def _changes(key: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [c for n in names for c in _changes(f"{key}.{n}" if key else n, old.get(n), new.get(n))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [c for i, (a, b) in enumerate(zip(old, new, strict=True)) for c in _changes(f"{key}.{i}", a, b)]
    return [] if old == new else [f"data.{key}: {_shown(old)} there, {_shown(new)} here"]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
