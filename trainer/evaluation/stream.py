"""A split as one stream of targets, each with its input: every token is scored once, the first after an end token."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.data.store.token_set import TokenSet
from trainer.data.tokenize.byte_lengths import ByteLengths
from trainer.data.tokenize.tokenizer import Tokenizer


@dataclass(frozen=True)
class Stream:
    """N tokens in their order. Target t is the token after input t; the first input is an end token."""

    inputs: Tensor  # (N) int64
    targets: Tensor  # (N) int64
    documents: Tensor | None  # (N) int32, the number of each input's document, where a model reads its own only
    ends: npt.NDArray[np.int64]  # where documents end: each is the place behind a document's last target

    def __len__(self) -> int:
        return len(self.targets)


def open_stream(token_set: TokenSet, tokens: int | None, *, documents: bool) -> Stream:
    """Return the first `tokens` of a split, or all. An end token belongs to the document that it begins."""
    available = sum(shard.tokens for shard in token_set.shards)
    count = min(available, tokens or available)
    targets = token_set.read(np.array([0], dtype=np.int64), count)[0].astype(np.int64)
    inputs = np.concatenate([[token_set.manifest.eos_id], targets[:-1]])
    ends = np.concatenate([first + ends for first, ends in token_set.pool_documents()])
    numbers = np.searchsorted(ends, np.arange(count), side="right").astype(np.int32)
    return Stream(
        torch.from_numpy(inputs),
        torch.from_numpy(targets),
        torch.from_numpy(numbers) if documents else None,
        ends[ends <= count],
    )


def count_words(stream: Stream, tokenizer: Tokenizer) -> int:
    """Return the white-space separated words of a stream's text, and its line ends.

    A document that does not end with a line feed ends a line, too. This is what word-level tables count as tokens.
    """
    if not tokenizer.eos_ends_documents:  # words and line ends are its tokens
        return len(stream)
    words = 0
    borders = [0, *stream.ends.tolist(), *([len(stream)] if len(stream) not in stream.ends else [])]
    for begin, end in pairwise(borders):
        tokens = stream.targets[begin:end].tolist()
        ended = tokens[-1:] == [tokenizer.eos_id]
        text = tokenizer.decode(tokens[:-1] if ended else tokens)
        words += len(text.split()) + text.count("\n") + (ended and not text.endswith("\n"))
    return words


def count_bytes(stream: Stream, known: ByteLengths, eos_id: int) -> int:
    """Return the bytes of text that the targets stand for."""
    lengths = torch.tensor(known.lengths)
    lengths[eos_id] = known.end
    begins = (stream.inputs == eos_id) & (stream.targets != eos_id)
    return int(lengths[stream.targets].sum()) + known.first * int(begins.sum())
