"""Tokenizers: text to ids and back, by sentencepiece, by bytes, or by a Hugging Face tokenizer.json.

A tokenizer directory holds `meta.json` (kind, file, vocabulary, end-of-document id, hash) and the model's file. The
hash is over the model's content, so that a checkpoint, a set and a ledger row can say which tokenizer they mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainer.data.segments import SegmentEncoder, segments_are_independent
from trainer.errors import UserError
from trainer.run_dir import write_atomically

DIRECTORY = "tokenizer"
META = "meta.json"
Encode = Callable[[bytes], bytes]  # UTF-8 text -> ids


class Tokenizer(Protocol):
    """What every tokenizer can do. `encode` never produces `eos_id`; it ends a document in the token set."""

    vocab_size: int
    eos_id: int
    hash: str

    def encode(self, text: str) -> list[int]: ...

    def encoder(self, itemsize: int) -> Encode:
        """Return the fastest function from UTF-8 text to its ids as little-endian integers of so many bytes."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def piece(self, token: int) -> str:
        """Return one token as it is shown to people."""
        ...


class SentencePiece:
    """A sentencepiece model (Kudo and Richardson 2018)."""

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:  # its text speaks of its own sources
            raise UserError("not a sentencepiece model") from None
        self.vocab_size: int = self._processor.vocab_size()
        self.eos_id: int = self._processor.eos_id()
        if self.eos_id < 0:
            raise UserError(
                "this sentencepiece model has no end-of-sentence piece, and documents need an end; train it with one"
            )
        self.hash = content_hash(model)

    def encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text))

    def encoder(self, itemsize: int) -> Encode:
        if segments_are_independent(self._processor.serialized_model_proto()):
            by_segment = SegmentEncoder(self._processor.encode_as_numpy, itemsize)
            return lambda text: by_segment(text.decode())
        return lambda text: bytes(self._processor.encode_as_numpy(text).astype(f"<u{itemsize}").tobytes())

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.decode([int(token) for token in ids]))

    def piece(self, token: int) -> str:
        return str(self._processor.id_to_piece(int(token)))


class Bytes:
    """Each UTF-8 byte is a token, and 256 ends a document. Bits per byte need no conversion."""

    vocab_size = 257
    eos_id = 256
    hash = hashlib.sha256(b"escala bytes 1").hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encoder(self, itemsize: int) -> Encode:
        return lambda text: np.frombuffer(text, dtype="u1").astype(f"<u{itemsize}").tobytes()

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(int(token) for token in ids if token != self.eos_id).decode(errors="replace")

    def piece(self, token: int) -> str:
        return "<eos>" if token == self.eos_id else repr(bytes([token]))[2:-1]


class HuggingFace:
    """A `tokenizer.json`, read with the `tokenizers` library. No text of a document can become a special token's id."""

    def __init__(self, content: bytes, eos: str | None) -> None:
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"not a tokenizer.json: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.eos_id = self._find_eos(eos)
        self.hash = content_hash(content + str(self.eos_id).encode())

    def _find_eos(self, eos: str | None) -> int:
        usual = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
        for word in (eos,) if eos is not None else usual:
            token = self._tokenizer.token_to_id(word)
            if token is not None:
                return int(token)
        asked = repr(eos) if eos is not None else " or ".join(usual)
        raise UserError(f"the tokenizer has no end-of-document token {asked}; name one with data.tokenizer.eos")

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encoder(self, itemsize: int) -> Encode:
        return lambda text: np.array(self.encode(text.decode()), dtype=f"<u{itemsize}").tobytes()

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode([int(token) for token in ids]))

    def piece(self, token: int) -> str:
        return str(self._tokenizer.id_to_token(int(token)))


def content_hash(content: bytes) -> str:
    """Return the hash by which a tokenizer is known."""
    return hashlib.sha256(content).hexdigest()[:16]


def build_tokenizer(meta: dict[str, Any], model: bytes) -> Tokenizer:
    """Return the tokenizer that a meta.json and its model's content describe."""
    if meta["kind"] == "bytes":
        return Bytes()
    if meta["kind"] == "huggingface":
        return HuggingFace(model, meta.get("eos"))
    return SentencePiece(model)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Load the tokenizer of a set (or of a tokenizer directory). Raises UserError where there is none or it changed."""
    path = Path(directory)
    path = path / DIRECTORY if (path / DIRECTORY / META).exists() else path
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        model = (path / meta["file"]).read_bytes() if meta.get("file") else b""
    except FileNotFoundError as error:
        raise UserError(
            f"no tokenizer in {directory}: {Path(error.filename).name} is missing; prepare the data first"
        ) from None
    tokenizer = build_tokenizer(meta, model)
    if tokenizer.hash != meta["hash"]:
        raise UserError(f"the tokenizer in {path} changed: its hash is {tokenizer.hash}, meta.json says {meta['hash']}")
    return tokenizer


def check_tokenizer(directory: str | Path, expected: str) -> None:
    """Raise UserError where the tokenizer in a set is not the one that its tokens were made with. Reads its note."""
    note = Path(directory) / DIRECTORY / META
    if note.exists() and (found := json.loads(note.read_text(encoding="utf-8"))["hash"]) != expected:
        raise UserError(
            f"the tokenizer in {note.parent} is another one: its hash is {found}, the tokens were made with "
            f"{expected}; put that one back, or remove the set and prepare it again"
        )


def save_tokenizer(directory: Path, kind: str, model: bytes, eos: str | None = None) -> Tokenizer:
    """Write a tokenizer into a directory, meta.json last, and return it."""
    tokenizer = build_tokenizer({"kind": kind, "eos": eos}, model)
    file = {"huggingface": "tokenizer.json", "bytes": None}.get(kind, "tokenizer.model")
    directory.mkdir(parents=True, exist_ok=True)
    if file:
        (directory / file).write_bytes(model)
    meta = {
        "kind": kind,
        "file": file,
        "eos": eos,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "hash": tokenizer.hash,
    }
    write_atomically(directory / META, json.dumps(meta, indent=1) + "\n")
    return tokenizer
