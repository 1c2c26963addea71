"""Tokenizers: text to ids and back, by sentencepiece, bytes, whole words, or a Hugging Face tokenizer.json.

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

from trainer.contract.errors import UserError
from trainer.contract.run_dir import write_atomically
from trainer.data.tokenize.segments import SegmentEncoder, segments_are_independent

DIRECTORY = "tokenizer"
META = "meta.json"
# The kinds and their models' files.
KINDS = {
    "sentencepiece": "tokenizer.model",
    "huggingface": "tokenizer.json",
    "word": "vocabulary.txt",
    "bytes": None,
}
Encode = Callable[[bytes], bytes]  # UTF-8 text -> ids


class Tokenizer(Protocol):
    """What every tokenizer can do. `encode` never produces `eos_id`; it ends a document in the token set.

    `vocab_size` is the largest id + 1, so that a table of so many rows has one for every id. Where `eos_ends_documents`
    is false, the end token ends each line, and the last line's end is that of the document.
    """

    vocab_size: int
    eos_id: int
    eos_ends_documents: bool
    hash: str

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""

    def encoder(self, itemsize: int) -> Encode:
        """Return the fastest function from UTF-8 text to its ids as little-endian integers of so many bytes."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these ids; special tokens give none."""

    def piece(self, token: int) -> str:
        """Return one token as it is shown to people."""
        ...


class SentencePiece:
    """A sentencepiece model (Kudo and Richardson 2018)."""

    eos_ends_documents = True

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, UnicodeDecodeError):  # its text speaks of its own sources, or quotes the damage
            raise UserError("not a sentencepiece model") from None
        if not model or not self._processor.vocab_size():
            raise UserError("not a sentencepiece model: it has no pieces")
        _refuse_damaged(model)
        self.vocab_size: int = self._processor.vocab_size()  # pieces are numbered without a gap
        self.eos_id: int = self._processor.eos_id()
        if self.eos_id < 0:
            raise UserError(
                "this sentencepiece model has no end-of-sentence piece, and documents need an end; train it with one"
            )
        self.content, self.hash = model, content_hash(model)

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


def _refuse_damaged(model: bytes) -> None:
    """Raise UserError for a model whose pieces are not text: the library reads it, and fails at the first of them."""
    from sentencepiece import sentencepiece_model_pb2

    try:
        kinds = {type(piece.piece) for piece in sentencepiece_model_pb2.ModelProto.FromString(model).pieces}
    except Exception as error:  # protobuf has several implementations, with errors of their own
        raise UserError(f"the sentencepiece model is damaged: {error}; copy it again") from None
    if kinds != {str}:
        raise UserError("the sentencepiece model is damaged: some of its pieces are not text; copy it again")


class Bytes:
    """Each UTF-8 byte is a token, and 256 ends a document. Bits per byte need no conversion."""

    vocab_size = 257
    eos_id = 256
    eos_ends_documents = True
    hash = hashlib.sha256(b"escala bytes 1").hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encoder(self, itemsize: int) -> Encode:
        return lambda text: np.frombuffer(text, dtype="u1").astype(f"<u{itemsize}").tobytes()

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(int(token) for token in ids if token != self.eos_id).decode(errors="replace")

    def piece(self, token: int) -> str:
        return "<eos>" if token == self.eos_id else repr(bytes([token]))[2:-1]


def content_hash(content: bytes) -> str:
    """Return the hash by which a tokenizer is known."""
    return hashlib.sha256(content).hexdigest()[:16]


def build_tokenizer(kind: str, model: bytes, eos: str | None = None) -> Tokenizer:
    """Return the tokenizer of a kind and its model's content. `eos` names the end token of a Hugging Face tokenizer."""
    if kind == "bytes":
        return Bytes()
    if kind == "huggingface":
        from trainer.data.tokenize.huggingface_tokenizer import HuggingFace

        return HuggingFace(model, eos)
    if kind == "word":
        from trainer.data.tokenize.word_tokenizer import Words

        return Words(model)
    return SentencePiece(model)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """Load the tokenizer of a set (or of a tokenizer directory). Raises UserError where there is none or it changed."""
    path = locate_tokenizer(directory)
    meta = read_meta(path)
    try:
        model = (path / meta["file"]).read_bytes() if meta.get("file") else b""
    except FileNotFoundError:
        raise UserError(f"no tokenizer in {directory}: {meta['file']} is missing; prepare the data first") from None
    tokenizer = build_tokenizer(meta["kind"], model, meta.get("eos"))
    if tokenizer.hash != meta["hash"]:
        raise UserError(f"the tokenizer in {path} changed: its hash is {tokenizer.hash}, meta.json says {meta['hash']}")
    return tokenizer


def locate_tokenizer(directory: str | Path) -> Path:
    """Return where the tokenizer of a set lies; a tokenizer directory is one itself."""
    path = Path(directory)
    return path / DIRECTORY if (path / DIRECTORY / META).exists() else path


def read_meta(path: Path) -> dict[str, Any]:
    """Return the note of a tokenizer directory. Raises UserError where there is none or it is damaged."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no tokenizer in {path}: {META} is missing; prepare the data first") from None
    except ValueError as error:
        raise UserError(f"{path / META} is damaged: {error}; copy the tokenizer again") from None
    known = isinstance(meta, dict) and meta.get("kind") in KINDS and meta.get("file") in KINDS.values()
    if not known or not isinstance(meta.get("hash"), str):
        raise UserError(f"{path / META} does not describe a tokenizer; copy the tokenizer again")
    return dict(meta)


def check_tokenizer(directory: str | Path, expected: str) -> None:
    """Raise UserError where the tokenizer in a set is not the one that its tokens were made with. Reads its note."""
    path = Path(directory) / DIRECTORY
    if (path / META).exists() and (found := read_meta(path)["hash"]) != expected:
        raise UserError(
            f"the tokenizer in {path} is another one: its hash is {found}, the tokens were made with "
            f"{expected}; put that one back, or remove the set and prepare it again"
        )


def save_tokenizer(directory: Path, kind: str, model: bytes, eos: str | None = None) -> Tokenizer:
    """Write a tokenizer into a directory, meta.json last, and return it."""
    tokenizer = build_tokenizer(kind, model, eos)
    file = KINDS[kind]
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
