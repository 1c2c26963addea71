"""Make the tokenizer of a set: train a sentencepiece model on a sample of the sources, or take an existing one."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.config.data import TokenizerConfig
from trainer.contract.errors import UserError
from trainer.data.tokenize.tokenizer import Tokenizer, save_tokenizer
from trainer.data.tokenize.word_tokenizer import count_vocabulary

LONGEST_SENTENCE = 4192  # bytes; sentencepiece skips longer ones in training


def make_tokenizer(config: TokenizerConfig, sample: Iterable[str], directory: Path) -> Tokenizer:
    """Write the tokenizer that the configuration asks for into `directory` and return it.

    `sample` yields documents and is read only if a model must be trained.
    """
    if config.kind == "bytes":
        return save_tokenizer(directory, "bytes", b"")
    if config.kind == "word":
        return save_tokenizer(directory, "word", count_vocabulary(sample, config.vocab_size))
    if config.path is not None:
        content = _read(config.path)
        try:
            return save_tokenizer(directory, config.kind, content, config.eos)
        except UserError as error:
            raise UserError(f"{config.path}: {error}") from None
    return save_tokenizer(directory, "sentencepiece", train_sentencepiece(config, sample))


def train_sentencepiece(config: TokenizerConfig, sample: Iterable[str]) -> bytes:
    """Train a model that gives back every text exactly, white space included, and return its content.

    Line feeds and tabs are pieces of their own, so no piece spans two lines and a document can be encoded by lines.
    """
    import sentencepiece

    sentences = _Counting(sentence for text in sample for sentence in split_sentences(text))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences,
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            byte_fallback=config.byte_fallback,
            character_coverage=0.9995 if config.byte_fallback else 1.0,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=["\n", "\t"],
            max_sentence_length=LONGEST_SENTENCE,
            input_sentence_size=0,
            num_threads=4,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explained(config, str(error), sentences.count) from None
    return model.getvalue()


def split_sentences(text: str) -> Iterator[str]:
    """Yield the lines of a text, long ones in pieces that sentencepiece does not skip. Empty lines are left out."""
    for line in text.splitlines():
        while len(line) * 4 > LONGEST_SENTENCE and len(line.encode()) > LONGEST_SENTENCE:
            cut = line.rfind(" ", LONGEST_SENTENCE // 8, LONGEST_SENTENCE // 4)
            cut = cut if cut > 0 else LONGEST_SENTENCE // 4
            yield line[:cut]
            line = line[cut:]
        if line.strip():
            yield line


class _Counting:
    """An iterator that knows how much it gave."""

    def __init__(self, items: Iterator[str]) -> None:
        self.items, self.count = items, 0

    def __iter__(self) -> _Counting:
        return self

    def __next__(self) -> str:
        item = next(self.items)
        self.count += 1
        return item


def _explained(config: TokenizerConfig, message: str, sentences: int) -> UserError:
    """Say in the user's terms why sentencepiece refused to train."""
    asked = f"a vocabulary of {config.vocab_size} cannot be trained on {sentences} lines of text"
    if sentences == 0:
        return UserError("the tokenizer cannot be trained: the sources gave no text")
    if limit := re.search(r"<= (\d+)", message):
        return UserError(
            f"{asked}: they allow at most {limit[1]}; lower data.tokenizer.vocab_size or raise sample_bytes"
        )
    if least := re.search(r"required_chars[^0-9]*[0-9]* *(?:vs|<)? *(\d+)", message):
        return UserError(f"{asked}: their characters alone need more than {least[1]}; raise data.tokenizer.vocab_size")
    return UserError(f"{asked}: {message}; change data.tokenizer.vocab_size or sample_bytes")


def _read(path: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            return bytes(file.read())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the tokenizer {path}: {error}") from None
