"""A Hugging Face `tokenizer.json`, used so that no text of a document can become the end of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from trainer.contract.errors import UserError
from trainer.data.tokenize.tokenizer import content_hash

USUAL_ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "[SEP]")
# Takes the place of the end token's text in the model, so that a text which holds that very text is cut into other
# pieces. U+FDD0 is no character and never will be.
UNWRITABLE = "\ufdd0end of document\ufdd0"
T = TypeVar("T")


class HuggingFace:
    """A `tokenizer.json`, read with the `tokenizers` library.

    `vocab_size` is the largest id + 1, added tokens included: ids may have gaps. Raises UserError for a file that is no
    tokenizer, has no end token, or whose ids depend on chance.
    """

    eos_ends_documents = True

    def __init__(self, content: bytes, eos: str | None) -> None:
        self._tokenizer = _parsed(content)
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self.end = find_end(vocab, eos)
        self.vocab_size: int = max(vocab.values()) + 1
        self.eos_id: int = vocab[self.end]
        self.hash = content_hash(content + str(self.eos_id).encode())
        if self.end in self._tokenizer.get_vocab(with_added_tokens=False):
            self._tokenizer = _parsed(_with_unwritable_end(content, self.end))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if dropout := getattr(self._tokenizer.model, "dropout", None):
            raise UserError(
                f"the tokenizer has a BPE dropout of {dropout}, with which a text has other ids each time; "
                "set model.dropout to null in tokenizer.json"
            )
        # An added token of the same text is found in documents unless it is special and special ones are left alone.
        self._tokenizer.add_special_tokens([self._tokenizer.id_to_token(self.eos_id)])
        self._tokenizer.encode_special_tokens = True

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. Raises UserError where the tokenizer has none for it, or the end token's."""
        encoding = _told(lambda: self._tokenizer.encode(text, add_special_tokens=False), f"cannot encode {text[:60]!r}")
        ids: list[int] = encoding.ids
        if self.eos_id in ids:
            begin, stop = encoding.offsets[ids.index(self.eos_id)]
            raise UserError(
                f"the tokenizer writes {text[begin:stop]!r} as {self.end!r}, which ends a document: the text would be "
                "cut there; name another end token with data.tokenizer.eos"
            )
        return ids

    def encoder(self, itemsize: int) -> Callable[[bytes], bytes]:
        """Return the function from UTF-8 text to its ids as little-endian integers of so many bytes."""
        return lambda text: np.array(self.encode(text.decode()), dtype=f"<u{itemsize}").tobytes()

    def decode(self, ids: Sequence[int] | npt.NDArray) -> str:
        """Return the text of ids; end tokens have none."""
        tokens = [int(token) for token in ids if token != self.eos_id]
        return str(
            _told(lambda: self._tokenizer.decode(tokens, skip_special_tokens=False), "cannot decode its own ids")
        )

    def piece(self, token: int) -> str:
        """Return one token as it is shown to people."""
        return self.end if token == self.eos_id else str(self._tokenizer.id_to_token(int(token)))


def find_end(vocab: dict[str, int], eos: str | None) -> str:
    """Return the end-of-document token: the one that is asked for, or the first usual one that the vocabulary has."""
    for word in (eos,) if eos is not None else USUAL_ENDS:
        if word in vocab:
            return word
    asked = repr(eos) if eos is not None else " or ".join(USUAL_ENDS)
    raise UserError(f"the tokenizer has no end-of-document token {asked}; name one with data.tokenizer.eos")


def _parsed(content: bytes) -> Any:
    import tokenizers

    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"not a tokenizer.json: {error}") from None
    tokenizer = _told(lambda: tokenizers.Tokenizer.from_str(text), "not a tokenizer.json")
    if not tokenizer.get_vocab(with_added_tokens=True):
        raise UserError("not a tokenizer.json that text can be encoded with: its vocabulary is empty")
    return tokenizer


def _with_unwritable_end(content: bytes, end: str) -> bytes:
    """Return a tokenizer.json in which the end token keeps its id, and its text is one that no document holds.

    Models take whatever their vocabulary has for text (Unigram and WordLevel most readily), special or not.
    """
    values = json.loads(content)
    model, vocab = values["model"], values["model"]["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {UNWRITABLE if word == end else word: number for word, number in vocab.items()}
    else:  # Unigram: [piece, score], numbered by place
        model["vocab"] = [[UNWRITABLE if piece == end else piece, score] for piece, score in vocab]
    if merges := model.get("merges"):
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges]
        model["merges"] = [[a, b] for a, b in pairs if end not in (a, b, a + b)]
    if model.get("unk_token") == end:
        model["unk_token"] = UNWRITABLE
    for token in values.get("added_tokens") or []:
        if token["content"] == end:
            token["content"] = UNWRITABLE
    return json.dumps(values).encode()


def _told(action: Callable[[], T], problem: str) -> T:
    """Return what an action of the library gives. Its errors are bare Exceptions; panics are not even that."""
    try:
        return action()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{problem}: {str(error) or type(error).__name__}") from None
