"""Tokenizers: texts come back as they were, words alone give the model's own ids, and mistakes are explained."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.config.data import TokenizerConfig
from trainer.contract.errors import UserError
from trainer.data.prepare.encode import Codec, SplitRule, encode_chunk
from trainer.data.tokenize.segments import segments_are_independent
from trainer.data.tokenize.tokenizer import Bytes, SentencePiece, load_tokenizer, save_tokenizer
from trainer.data.tokenize.tokenizer_training import (
    LONGEST_SENTENCE,
    make_tokenizer,
    split_sentences,
    train_sentencepiece,
)

WORDS = "def return the of a  model  x1 self.value = 0.5 naïve Größe 数据 12345 \t\n\n    if else:\n".split(" ")  # noqa: SIM905


def sample(documents: int = 200) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=60)) for _ in range(documents)]


@pytest.fixture(scope="module")
def bpe() -> SentencePiece:
    return SentencePiece(train_sentencepiece(TokenizerConfig(vocab_size=360), sample()))


@pytest.fixture(scope="module")
def unigram() -> SentencePiece:
    return SentencePiece(train_sentencepiece(TokenizerConfig(kind="unigram", vocab_size=300), sample()))


# sentencepiece writes U+2581 for a space, so it cannot tell the two apart.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=80)
MIXED = st.lists(st.one_of(TEXT, st.sampled_from(WORDS), st.sampled_from([" ", "  ", "\n", "\t"])), max_size=30)


@given(parts=MIXED)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_words_alone_give_the_ids_of_the_whole_text(bpe: SentencePiece, parts: list[str]) -> None:
    text = "".join(parts)
    assert np.frombuffer(bpe.encoder(2)(text.encode()), "<u2").tolist() == bpe.encode(text)
    spaced = text.replace("a", "\u2581")
    assert np.frombuffer(bpe.encoder(4)(spaced.encode()), "<u4").tolist() == bpe.encode(spaced)


@given(parts=MIXED)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", ["bpe", "unigram", "bytes"])
def test_every_text_comes_back_and_holds_no_end(
    kind: str, bpe: SentencePiece, unigram: SentencePiece, parts: list[str]
) -> None:
    tokenizer = {"bpe": bpe, "unigram": unigram, "bytes": Bytes()}[kind]
    text = "".join(parts) + "</s><unk><s>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_id not in ids and max(ids) < tokenizer.vocab_size
    assert np.frombuffer(tokenizer.encoder(2)(text.encode()), "<u2").tolist() == ids


def test_only_models_that_keep_words_apart_are_encoded_by_words(bpe: SentencePiece, unigram: SentencePiece) -> None:
    import io

    import sentencepiece

    def trained(**options: object) -> bytes:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*sample(), *["the model of the model"] * 200]),
            model_writer=model,
            vocab_size=360,
            minloglevel=2,
            **options,
        )
        return model.getvalue()

    own = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "user_defined_symbols": ["\n", "\t"],
    }
    assert segments_are_independent(trained(**own))
    for change in (
        {"split_by_whitespace": False},
        {"add_dummy_prefix": True},
        {"normalization_rule_name": "nmt_nfkc"},
        {"user_defined_symbols": ["\n", "\t", "a model"]},
        {"treat_whitespace_as_suffix": True},
    ):
        assert not segments_are_independent(trained(**{**own, **change})), change
    assert not segments_are_independent(unigram._processor.serialized_model_proto())


def test_training_does_not_depend_on_chance() -> None:
    models = [SentencePiece(train_sentencepiece(TokenizerConfig(vocab_size=350), sample())).hash for _ in range(2)]
    assert models[0] == models[1]


@pytest.mark.parametrize("text", ["x" * 20_000, "wörd " * 5_000, "short", "a\nb\n\nc", "数" * 9_000])
def test_no_line_is_too_long_for_training_and_none_is_lost(text: str) -> None:
    pieces = list(split_sentences(text))
    assert "".join(pieces) == text.replace("\n", "")
    assert all(len(piece.encode()) <= LONGEST_SENTENCE for piece in pieces)


def test_a_saved_tokenizer_is_the_same_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    made = make_tokenizer(TokenizerConfig(vocab_size=360), sample(), tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path)
    assert (loaded.hash, loaded.vocab_size, loaded.eos_id) == (made.hash, 360, made.eos_id)
    other = train_sentencepiece(TokenizerConfig(vocab_size=361), sample())
    (tmp_path / "tokenizer" / "tokenizer.model").write_bytes(other)
    with pytest.raises(UserError, match="changed: its hash is"):
        load_tokenizer(tmp_path)


def test_a_hugging_face_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(sample(), trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    config = TokenizerConfig(kind="huggingface", path=str(tmp_path / "tokenizer.json"))
    tokenizer = make_tokenizer(config, [], tmp_path / "set" / "tokenizer")
    text = "naïve 数据 <|endoftext|> the end"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_id not in tokenizer.encode(text)
    assert load_tokenizer(tmp_path / "set").hash == tokenizer.hash
    with pytest.raises(UserError, match="no end-of-document token '<stop>'"):
        make_tokenizer(config.model_copy(update={"eos": "<stop>"}), [], tmp_path / "other")


def test_mistakes_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a vocabulary of 900000 cannot be trained .* allow at most \d+"):
        train_sentencepiece(TokenizerConfig(vocab_size=900_000), sample())
    with pytest.raises(UserError, match="vocabulary of 262 cannot be trained"):
        train_sentencepiece(TokenizerConfig(vocab_size=262), sample())
    with pytest.raises(UserError, match="the sources gave no text"):
        train_sentencepiece(TokenizerConfig(vocab_size=400), [])
    with pytest.raises(UserError, match=r"cannot read the tokenizer .*nowhere"):
        make_tokenizer(TokenizerConfig(kind="sentencepiece", path=str(tmp_path / "nowhere")), [], tmp_path)
    (tmp_path / "bad").write_bytes(b"no model")
    for kind in ("sentencepiece", "huggingface"):
        with pytest.raises(UserError, match="not a "):
            make_tokenizer(TokenizerConfig(kind=kind, path=str(tmp_path / "bad")), [], tmp_path)
    with pytest.raises(UserError, match="no tokenizer in"):
        load_tokenizer(tmp_path / "set")
    assert save_tokenizer(tmp_path / "b", "bytes", b"").vocab_size == 257


def test_a_damaged_sentencepiece_model_is_refused_or_keeps_to_its_vocabulary(bpe: SentencePiece) -> None:
    rng, refused = random.Random(0), 0
    for _ in range(60):
        content = bytearray(bpe.content)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        content = content if rng.random() < 0.7 else content[: rng.randrange(len(content))]
        try:
            tokenizer = SentencePiece(bytes(content))
            chunk = encode_chunk([b"the model </s> <unk> x1"], Codec(tokenizer, "uint16"), SplitRule(0.0))
            assert chunk.train.lengths == [len(tokenizer.encode("the model </s> <unk> x1")) + 1]
        except UserError:
            refused += 1
    assert 10 < refused < 60


def test_control_pieces_in_a_text_are_text() -> None:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample()),
        model_writer=model,
        vocab_size=305,
        byte_fallback=True,
        control_symbols=["<ctl>"],
        user_defined_symbols=["<sep>"],
        minloglevel=2,
    )
    tokenizer = SentencePiece(model.getvalue())
    ids = tokenizer.encode("the <ctl> model </s><s> of <sep> a")
    shown = [tokenizer.piece(token) for token in ids]
    assert "<sep>" in shown and not {"<ctl>", "</s>", "<s>"} & set(shown)
    with pytest.raises(UserError, match="it has no pieces"):
        SentencePiece(b"")
