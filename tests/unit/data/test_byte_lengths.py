"""The bytes of tokens add up to the bytes of the text, for every kind of tokenizer that gives its text back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from trainer.config.data import TokenizerConfig
from trainer.data.tokenize.byte_lengths import ByteLengths, byte_lengths
from trainer.data.tokenize.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from trainer.data.tokenize.tokenizer_training import make_tokenizer

LINES = [
    "the cat sat on the mat, and then",
    "der Bär aß süße Äpfel – für 5 €",
    "Ба́бушка и де́душка",
    "def f(x):\n\treturn x",
] * 50
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁\x00"), min_size=1, max_size=60)
EOS, UNKNOWN = "<|endoftext|>", "<unk>"


def trained(directory: Path, kind: str) -> None:
    make_tokenizer(TokenizerConfig(kind=kind, vocab_size=300), iter(LINES), directory)


def dummy_prefix(directory: Path, _: str) -> None:
    """As Llama's: a space is put before each text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=330, model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    save_tokenizer(directory, "sentencepiece", model.getvalue())


def byte_level(directory: Path, _: str) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=400, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_tokens(["  ", "süße €"])
    save_tokenizer(directory, "huggingface", tokenizer.to_str().encode())


def llama_like(directory: Path, _: str) -> None:
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = {piece: token for token, piece in enumerate([EOS, *fallback, *"▁abcdehämtB"])}
    vocabulary |= {piece: len(vocabulary) + k for k, piece in enumerate(["▁t", "th", "▁th", "▁the"])}
    merges = [("▁", "t"), ("t", "h"), ("▁t", "h"), ("▁th", "e")]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([EOS])
    save_tokenizer(directory, "huggingface", tokenizer.to_str().encode())


def metaspace(directory: Path, _: str) -> None:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    alphabet = sorted(set("".join(LINES)))
    tokenizer.train_from_iterator(
        LINES,
        trainers.UnigramTrainer(
            vocab_size=300,
            special_tokens=[EOS, UNKNOWN],
            unk_token=UNKNOWN,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    save_tokenizer(directory, "huggingface", tokenizer.to_str().encode())


MADE = {
    "bytes": lambda directory, _: save_tokenizer(directory, "bytes", b""),
    "bpe": trained,
    "unigram": trained,
    "dummy prefix": dummy_prefix,
    "byte level": byte_level,
    "llama-like": llama_like,
    "metaspace": metaspace,
}


@pytest.fixture(scope="module", params=MADE)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, ByteLengths]:
    directory = tmp_path_factory.mktemp("tokenizer")
    MADE[request.param](directory, request.param)
    return load_tokenizer(directory), byte_lengths(directory)


@given(
    text=TEXTS | st.lists(st.sampled_from([*LINES, "  ", " süße €", "😀", "👨‍👩‍👧", "日本"]), min_size=1).map("".join)
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tokens_of_a_text_have_its_bytes(made: tuple[Tokenizer, ByteLengths], text: str) -> None:
    tokenizer, known = made
    ids = tokenizer.encode(text)
    if tokenizer.decode(ids) != text:
        return  # this tokenizer does not give this text back: there is no right number
    assert sum(known.lengths[token] for token in ids) + known.first == len(text.encode())
    assert known.lengths[tokenizer.eos_id] == 0


def test_most_texts_are_given_back(made: tuple[Tokenizer, ByteLengths]) -> None:
    """So that the test above tests something."""
    tokenizer, known = made
    lossless = [text for text in LINES[:4] if tokenizer.decode(tokenizer.encode(text)) == text]
    assert len(lossless) >= 3
    assert len(known.lengths) >= tokenizer.vocab_size


def test_other_tokenizers_are_measured_by_decoding(tmp_path: Path) -> None:
    """WordPiece joins words with spaces and pieces without."""
    words = ["[UNK]", "[SEP]", "the", "cat", "un", "##seen", "##s", "ü", "##ber"]
    tokenizer = tokenizers.Tokenizer(models.WordPiece({w: k for k, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(["[SEP]"])
    save_tokenizer(tmp_path, "huggingface", tokenizer.to_str().encode())
    known, loaded = byte_lengths(tmp_path), load_tokenizer(tmp_path)
    for text in ("the cats unseen über cat", "über über", "cat"):
        ids = loaded.encode(text)
        assert loaded.decode(ids) == text
        assert sum(known.lengths[token] for token in ids) + known.first == len(text.encode())


def test_added_tokens_are_counted_by_the_ids_that_the_library_gives_them(tmp_path: Path) -> None:
    byte_level(tmp_path, "")
    values = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] == EOS]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    values["added_tokens"] += [
        {"id": 40, "content": "süße €", **plain},  # the id of a piece: the library gives it the next free one
        {"id": 10**6, "content": "::", **plain},
    ]
    save_tokenizer(tmp_path, "huggingface", json.dumps(values).encode())
    tokenizer, measured = load_tokenizer(tmp_path), byte_lengths(tmp_path)
    text = "the süße €:: cat"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(measured.lengths) == tokenizer.vocab_size
    assert sum(measured.lengths[token] for token in tokenizer.encode(text)) + measured.first == len(text.encode())
    assert measured.lengths[40] == 1
