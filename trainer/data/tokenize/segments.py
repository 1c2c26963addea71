"""Encode text by its words, each of which sentencepiece sees once.

A byte-pair model whose pieces never hold a space after another character, nor a line feed or tab beside another
character, encodes each stretch between such places as if it stood alone: no merge can cross them. Words repeat, so a
table of encoded words gives the same ids several times faster than the model does.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

SPACE = "▁"  # how sentencepiece writes a space; it reads the character itself as one, too
SEGMENT = re.compile(f"[\n\t]|[ {SPACE}]*[^ {SPACE}\n\t]+|[ {SPACE}]+")
MOST = 1 << 18  # remembered segments


def segments_are_independent(model: bytes) -> bool:
    """Return whether a sentencepiece model encodes each segment as if it stood alone."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    text = proto.normalizer_spec
    keeps_text = not (text.precompiled_charsmap or text.add_dummy_prefix or text.remove_extra_whitespaces)
    if (
        proto.trainer_spec.model_type != proto.trainer_spec.BPE
        or not keeps_text
        or not proto.trainer_spec.byte_fallback
    ):
        return False
    special = {piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED}
    learned = [piece.piece for piece in proto.pieces if piece.type == piece.NORMAL]
    return special == {"\n", "\t"} and not any(
        SPACE in piece.lstrip(SPACE) or "\n" in piece or "\t" in piece for piece in learned
    )


class SegmentEncoder:
    """A table from segment to token ids, as bytes of the set's dtype; it fills itself and is emptied when full.

    `encode` must be that of a model with independent segments: then new segments are encoded together, a line each.
    """

    def __init__(self, encode: Callable[[str], npt.NDArray], itemsize: int) -> None:
        self._encode, self._dtype = encode, np.dtype(f"<u{itemsize}")
        (self._line_feed,) = encode("\n").tolist()
        self._table: dict[str, bytes] = {}

    def __call__(self, text: str) -> bytes:
        """Return the ids of a text."""
        segments = SEGMENT.findall(text)
        if new := set(segments).difference(self._table):
            self._learn(new)
        tokens = b"".join(map(self._table.__getitem__, segments))
        if len(self._table) > MOST:
            self._table.clear()
        return tokens

    def _learn(self, new: set[str]) -> None:
        if "\n" in new:
            self._table["\n"] = np.array([self._line_feed], dtype=self._dtype).tobytes()
            new.discard("\n")
        tokens = self._encode("\n".join(new)).astype(self._dtype)
        ends = [*np.flatnonzero(tokens == self._line_feed).tolist(), len(tokens)]
        begin = 0
        for segment, end in zip(new, ends, strict=bool(new)):
            self._table[segment] = tokens[begin:end].tobytes()
            begin = end + 1
