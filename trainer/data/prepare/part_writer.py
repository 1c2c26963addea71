"""Encode one part of a set into shards, and record it when they are on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from filelock import FileLock

from trainer.config.data import HELD_OUT, TRAIN, DataConfig
from trainer.contract.run_dir import write_atomically
from trainer.data.prepare.claim import set_lock
from trainer.data.prepare.encode import Chunk, Encoders, SplitRule, document_digest
from trainer.data.prepare.parts import Part, PartRecord
from trainer.data.prepare.progress import Progress
from trainer.data.source.input_list import refuse_other_files
from trainer.data.source.sources import Source
from trainer.data.source.tally import Tally
from trainer.data.store.shard_writer import ShardWriter

CHUNK_BYTES = 1 << 17


@dataclass(frozen=True)
class PartWriter:
    """Writes the parts of one set into its directory `root`."""

    config: DataConfig
    root: Path
    encoders: Encoders
    dtype: str
    progress: Progress

    def write(self, part: Part, source: Source) -> None:
        """Encode a part unless it is recorded. What an earlier attempt left unfinished is written over."""
        with FileLock(self.root / "parts" / f"{part.name}.lock"):
            if not part.record(self.root).exists():
                record = self._encode(part, source)
                with set_lock(self.root):
                    refuse_other_files(self.root, part, source.parts[part.index])
                    write_atomically(part.record(self.root), record.model_dump_json(indent=1) + "\n")
        self.progress.parts += 1

    def _encode(self, part: Part, source: Source) -> PartRecord:
        config, held_out = self.config, part.tag if part.held_out_set else HELD_OUT
        train_writer, held_out_writer = (
            ShardWriter(self.root, f"{split}/{part.name}", part.tag, np.dtype(self.dtype).itemsize, config.shard_tokens)
            for split in (TRAIN, held_out)
        )
        rule = SplitRule(1.0) if part.held_out_set else SplitRule(config.held_out_fraction, self._known_digests())
        text_hash, digests, documents, duplicates = hashlib.sha256(), bytearray(), 0, 0
        tally = Tally()
        found = source.documents(part.index, source.part_budget(), tally)
        try:
            for texts, chunk in self.encoders.encode(chunks(found), rule):
                for text in texts:
                    text_hash.update(text)
                    digests += document_digest(text) if part.held_out_set else b""
                train_writer.append(chunk.train)
                held_out_writer.append(chunk.held_out)
                documents, duplicates = documents + len(texts), duplicates + chunk.duplicates
                self.progress.advance(_text_bytes(chunk), _tokens(chunk))
            splits = {} if part.held_out_set else {TRAIN: train_writer.close()}
            splits[held_out] = held_out_writer.close()
        finally:
            train_writer.abandon()
            held_out_writer.abandon()
        if part.held_out_set:
            part.record(self.root).with_suffix(".digests").write_bytes(digests)
        return PartRecord(
            splits=splits, documents=documents, duplicates=duplicates, text_hash=text_hash.hexdigest(), read=tally
        )

    def _known_digests(self) -> frozenset[bytes]:
        """Return the digests of all documents of the extra held-out sets."""
        sets = self.config.held_out_sets
        files = chain.from_iterable(self.root.glob(f"parts/{source.tag}-*.digests") for source in sets)
        contents = [file.read_bytes() for file in files]
        return frozenset(raw[i : i + 16] for raw in contents for i in range(0, len(raw), 16))


def chunks(texts: Iterable[str]) -> Iterator[list[bytes]]:
    """Group documents, as UTF-8, into pieces of work."""
    group: list[bytes] = []
    size = 0
    for text in texts:
        group.append(text.encode())
        size += len(group[-1]) + 64
        if size >= CHUNK_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _text_bytes(chunk: Chunk) -> int:
    return sum(chunk.train.text_bytes) + sum(chunk.held_out.text_bytes)


def _tokens(chunk: Chunk) -> int:
    return sum(chunk.train.lengths) + sum(chunk.held_out.lengths)
