"""How many bytes of text each token stands for, so that bits per byte can be counted over any set of targets.

Exact for bytes, for words (whose text has one space between them), for sentencepiece and for the byte-level and
sentencepiece-like tokenizers of Hugging Face: the lengths of a document's tokens, `first` for its first one and `end`
for its last add up to the UTF-8 bytes of its text. A character that several tokens share is shared out by bytes. An
unknown piece stands for what it is decoded to. For other tokenizers of Hugging Face each token is decoded behind
another one, and what it adds is counted.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.tokenize.byte_characters import CHARACTER_OF
from trainer.data.tokenize.segments import SPACE
from trainer.data.tokenize.tokenizer import locate_tokenizer, read_meta
from trainer.data.tokenize.word_tokenizer import Words

BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
BYTE_CHARACTERS = frozenset(CHARACTER_OF.values())


@dataclass(frozen=True)
class ByteLengths:
    """Bytes of each token by its id; `first` is added for the first token of a document (a space put before it: -1).

    `end` are those of the end token: none, or the line feed that it stands for.
    """

    lengths: list[int]
    first: int = 0
    end: int = 0


def byte_lengths(directory: Path) -> ByteLengths:
    """Return the byte lengths of a tokenizer that can be loaded from `directory`, its own or that of its set."""
    path = locate_tokenizer(directory)
    meta = read_meta(path)
    if meta["kind"] == "bytes":
        return ByteLengths([*[1] * 256, 0])
    model = (path / meta["file"]).read_bytes()
    if meta["kind"] == "word":
        return ByteLengths(Words(model).byte_lengths(), first=-1, end=1)
    return _huggingface(model) if meta["kind"] == "huggingface" else _sentencepiece(model)


def _sentencepiece(model: bytes) -> ByteLengths:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    fixed = {
        proto.pieces[0].BYTE: 1,
        proto.pieces[0].CONTROL: 0,
        proto.pieces[0].UNKNOWN: len(proto.trainer_spec.unk_surface.encode()),
    }
    lengths = [fixed.get(piece.type, _written(piece.piece)) for piece in proto.pieces]
    return ByteLengths(lengths, first=-int(proto.normalizer_spec.add_dummy_prefix))


def _written(piece: str) -> int:
    return len(piece.replace(SPACE, " ").encode())


def _huggingface(content: bytes) -> ByteLengths:
    import tokenizers

    values = json.loads(content)
    pieces = _pieces(values)
    # By the ids that the library gives them: it does not follow a file whose ids its own numbering would not give.
    added = tokenizers.Tokenizer.from_str(content.decode()).get_added_tokens_decoder()
    lengths = [0] * (max([*pieces, *added], default=-1) + 1)
    decoders = _chain(values.get("decoder"), "decoders")
    kinds = {decoder["type"] for decoder in decoders}
    spaced = "Metaspace" in kinds or any(_replaces_space(decoder) for decoder in decoders)
    if "ByteLevel" in kinds:
        first = -int(any(step.get("add_prefix_space", False) for step in _of_type(values, "ByteLevel")))
        measured = {token: _byte_level(piece) for token, piece in pieces.items()}
    elif spaced:
        first = -int(_puts_space_first(values, decoders))
        bytes_known = "ByteFallback" in kinds
        measured = {
            token: 1 if bytes_known and BYTE_PIECE.fullmatch(piece) else _written(piece)
            for token, piece in pieces.items()
        }
    else:
        first, measured = _by_decoding(content, pieces)
    for token, length in measured.items():
        lengths[token] = length
    for token, entry in added.items():  # a special token is no text
        lengths[token] = 0 if entry.special else len(entry.content.encode())
    return ByteLengths(lengths, first)


def _pieces(values: dict[str, Any]) -> dict[int, str]:
    vocabulary = values["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores
        return {token: piece for token, (piece, _) in enumerate(vocabulary)}
    return {token: piece for piece, token in vocabulary.items()}


def _chain(step: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    """Return the steps of a decoder, a normalizer or a pre-tokenizer, one by one."""
    if step is None:
        return []
    if step["type"] != "Sequence":
        return [step]
    return [inner for member in step[members] for inner in _chain(member, members)]


def _of_type(values: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [step for step in _chain(values.get("pre_tokenizer"), "pretokenizers") if step["type"] == kind]


def _byte_level(piece: str) -> int:
    return len(piece) if BYTE_CHARACTERS.issuperset(piece) else len(piece.encode())


def _replaces_space(decoder: dict[str, Any]) -> bool:
    return decoder["type"] == "Replace" and decoder.get("pattern") == {"String": SPACE}


def _puts_space_first(values: dict[str, Any], decoders: list[dict[str, Any]]) -> bool:
    """Return whether a space is put before each text, which decoding takes away again."""
    spaces = [*(d for d in decoders if d["type"] == "Metaspace"), *_of_type(values, "Metaspace")]
    scheme = {
        step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never") for step in spaces
    }
    stripped = any(d["type"] == "Strip" and d.get("start", 0) > 0 for d in decoders)
    return stripped or bool(scheme & {"always", "first"})


def _by_decoding(content: bytes, pieces: dict[int, str]) -> tuple[int, dict[int, int]]:
    """Return what is added for a first token, and the bytes that each token adds behind an ordinary one."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(content.decode())

    def size(*tokens: int) -> int:
        return len(tokenizer.decode(list(tokens)).encode())

    anchor = max(pieces, key=lambda token: (pieces[token].isalpha() and pieces[token].isascii(), -len(pieces[token])))
    measured = {token: size(anchor, token) - size(anchor) for token in pieces}
    return size(anchor) - measured[anchor], measured
