"""Words as tokens: a closed vocabulary, an end of each line, and what both mean for the rest of the data plane."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.config.base import parse_section
from trainer.config.data import DataConfig, TokenizerConfig
from trainer.contract.errors import UserError
from trainer.data.prepare.prepare import prepare
from trainer.data.read.batches import MicroBatch
from trainer.data.store.token_set import TokenSet
from trainer.data.tokenize.byte_lengths import byte_lengths
from trainer.data.tokenize.tokenizer import load_tokenizer, save_tokenizer
from trainer.data.tokenize.word_tokenizer import Words, count_vocabulary
from trainer.evaluation.text_bytes import TextBytes

TEXT = " = the cat =\n\nthe <unk> sat\nthe cat <eos> sat\n"


@pytest.fixture
def words() -> Words:
    return Words(count_vocabulary([TEXT]))


def test_the_vocabulary_has_the_most_frequent_words_first(words: Words) -> None:
    """Four lines; a written `<eos>` is a word that the vocabulary does not have."""
    assert [words.piece(token) for token in range(words.vocab_size)] == ["<eos>", "the", "<unk>", "=", "cat", "sat"]
    small = Words(count_vocabulary([TEXT], most=4))
    assert [small.piece(token) for token in range(4)] == ["<unk>", "<eos>", "the", "="]


def test_each_line_has_an_end_but_the_last_whose_end_is_the_document(words: Words) -> None:
    eos, the, unk, equal, cat, sat = range(6)
    assert words.encode(TEXT) == [equal, the, cat, equal, eos, eos, the, unk, sat, eos, the, cat, unk, sat]
    assert words.encode(TEXT.removesuffix("\n")) == words.encode(TEXT)
    assert words.encode("a dog\r\n the") == [unk, unk, eos, the]
    assert np.frombuffer(words.encoder(2)(TEXT.encode()), "<u2").tolist() == words.encode(TEXT)


@given(st.text(alphabet="the cat\n ", max_size=30))
def test_known_words_come_back_with_one_space_between_them(text: str) -> None:
    words = Words(count_vocabulary([text + " x"]))
    lines = text.removesuffix("\n").split("\n")
    assert words.decode(words.encode(text)) == "\n".join(" ".join(line.split()) for line in lines)


@pytest.mark.parametrize("bad", [b"", b"a\nb\n", b"<unk>\n<eos>\na\na\n", b"\xff\n"])
def test_a_damaged_vocabulary_is_refused(bad: bytes) -> None:
    with pytest.raises(UserError, match="not a vocabulary of words"):
        Words(bad)


def test_no_words_are_no_vocabulary() -> None:
    with pytest.raises(UserError, match="no words"):
        count_vocabulary(["\n \n"])


def test_its_size_is_that_of_the_text_unless_it_is_given() -> None:
    assert TokenizerConfig(kind="word").vocab_size is None
    assert TokenizerConfig().vocab_size == TokenizerConfig(kind="bytes").vocab_size == 4096
    with pytest.raises(UserError, match="at least 3"):
        parse_section(TokenizerConfig, {"kind": "word", "vocab_size": 2}, "tokenizer")


def test_the_bytes_of_words_are_those_of_their_text(words: Words, tmp_path: Path) -> None:
    save_tokenizer(tmp_path, "word", count_vocabulary([TEXT]))
    targets = torch.tensor([[*words.encode(TEXT), words.eos_id]])
    inputs = torch.cat([torch.tensor([[words.eos_id]]), targets[:, :-1]], dim=1)
    counted = TextBytes(byte_lengths(tmp_path), words.eos_id)(MicroBatch(inputs, targets))
    assert counted == len(words.decode(targets[0].tolist()).encode())


def test_a_set_of_words_has_every_line_of_its_files(tmp_path: Path) -> None:
    """The vocabulary is that of the training text alone, and nothing is dropped or reordered."""
    (tmp_path / "train.txt").write_text(TEXT)
    (tmp_path / "test.txt").write_text("the dog\n\n= the <unk> =\n")
    config = DataConfig.model_validate(
        {
            "name": "words", "root": str(tmp_path / "data"), "held_out_fraction": 0.0, "tokenizer": {"kind": "word"},
            "sources": [{"path": str(tmp_path / "train.txt"), "documents_are": "files"}],
            "held_out_sets": [{"name": "test", "path": str(tmp_path / "test.txt"), "documents_are": "files"}],
        }
    )  # fmt: skip
    root = prepare(config, workers=1)
    words = load_tokenizer(root)
    assert isinstance(words, Words) and words.vocab_size == 6
    stored = TokenSet.open(root, "test").read(np.array([0]), 9)[0].tolist()
    assert words.decode(stored) == "the <unk>\n\n= the <unk> =\n"
    assert TokenSet.open(root, "train").shards[0].tokens == len(words.encode(TEXT)) + 1
