"""Count the bytes of text that evaluated targets stand for, wherever in a set and in whatever packing they lie."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch

from trainer.config.data import DataConfig
from trainer.contract.run_dir import RunDir
from trainer.data.read.batches import MicroBatch
from trainer.data.store.manifest import Manifest
from trainer.data.tokenize.byte_lengths import ByteLengths, byte_lengths
from trainer.data.tokenize.run_tokenizer import keep_tokenizer
from trainer.parallel.first_rank import from_first_rank


class TextBytes:
    """Counts from a table by token. The token after an end token begins a document, or a line of words."""

    def __init__(self, known: ByteLengths, eos_id: int) -> None:
        self.lengths = torch.tensor(known.lengths, dtype=torch.float64)
        self.lengths[eos_id] = float(known.end)
        self.first, self.eos_id = known.first, eos_id

    def __call__(self, batch: MicroBatch) -> float:
        """Return the bytes of the targets of a batch, by their weights."""
        begins = (batch.inputs == self.eos_id) & (batch.targets != self.eos_id)
        counted = self.lengths[batch.targets] + self.first * begins
        return float((counted if batch.weights is None else counted * batch.weights).sum())


def agreed_text_bytes(data: DataConfig, manifest: Manifest, run_dir: RunDir, device: torch.device) -> TextBytes | None:
    """Keep the set's tokenizer in the run, and return what counts its bytes; None for a set without a tokenizer.

    A collective call: the first rank reads, the others are told.
    """

    def read() -> str:
        kept = keep_tokenizer(run_dir.tokenizer, data, manifest.tokenizer_hash)
        return json.dumps(asdict(byte_lengths(run_dir.tokenizer)) if kept else None)

    known = json.loads(from_first_rank(read, device))
    return TextBytes(ByteLengths(**known), manifest.eos_id) if known else None
