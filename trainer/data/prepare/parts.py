"""Parts: the units in which a set is prepared, restarted and shared out over nodes; and the manifest made of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from trainer.config.data import HELD_OUT, TRAIN, DataConfig
from trainer.data.source.tally import Tally
from trainer.data.store.manifest import Manifest, Shard
from trainer.data.tokenize.tokenizer import Tokenizer

PARTS = "parts"


@dataclass(frozen=True)
class Part:
    """One piece of one source. `held_out_set` marks a source that is only evaluated on."""

    source: int  # index into the sources, or into the held-out sets
    tag: str
    index: int
    share: float  # of the source that comes before it, among the parts that were listed with it
    held_out_set: bool

    @property
    def name(self) -> str:
        """The name of its shards and of its record."""
        return part_name(self.tag, self.index)

    def record(self, root: Path) -> Path:
        """Return the file that says that this part is done."""
        return root / PARTS / f"{self.name}.json"


def part_name(tag: str, index: int) -> str:
    """Return the name of a part of a source."""
    return f"{tag}-{index:04d}"


class PartRecord(BaseModel):
    """What a finished part gave. It is written when its shards are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    splits: dict[str, list[Shard]]
    documents: int
    duplicates: int  # training documents dropped because a held-out set has them
    text_hash: str  # SHA-256 over the texts as they were read
    read: Tally = Tally()  # absent in records of earlier versions


def in_order(parts: list[Part]) -> list[Part]:
    """Return held-out sets first, then all sources side by side: any prefix of the parts is a fair share of each."""
    return sorted(parts, key=lambda part: (not part.held_out_set, part.share, part.source))


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
    read: dict[str, Counter[str]] = {}
    for part in parts[:missing]:
        record = done[part]
        for split, shards in record.splits.items():
            splits.setdefault(split, []).extend(shards)
        documents[part.tag] += record.documents
        duplicates[part.tag] += record.duplicates
        texts.setdefault(part.tag, []).append(record.text_hash)
        read.setdefault(part.tag, Counter()).update(record.read.model_dump())
    report = {
        tag: {
            "documents_read": documents[tag],
            "dropped_because_held_out": duplicates[tag],
            "read": dict(read[tag]),
            "text_hashes": texts[tag],
        }
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
