"""Text while it comes: all pieces together are the whole text, no character is torn, no stop string is shown."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.data.tokenizer_files import byte_level, content, sample, unigram
from tests.unit.test_decode import sharp
from trainer.config.data import TokenizerConfig
from trainer.config.decoding import parse_decoding
from trainer.data.tokenize.huggingface_tokenizer import HuggingFace
from trainer.data.tokenize.tokenizer import Bytes, SentencePiece, Tokenizer
from trainer.data.tokenize.tokenizer_training import train_sentencepiece
from trainer.decoding.compare import COMPARED, compare, findings, table
from trainer.decoding.task import Produced, Task, decode
from trainer.decoding.text import Continuation, TextStream, cut

TEXT = "naïve café — 日本語 🦜🏽 e\u0301 a\tb\n\nc"


def pieces(tokenizer: Tokenizer, prompt: list[int], tokens: list[int], stops: tuple[str, ...] = ()) -> list[str]:
    stream = TextStream(Continuation(tokenizer), prompt, stops)
    return [*(stream.push(token) for token in tokens), stream.close()]


def test_bytes_come_as_characters() -> None:
    got = pieces(Bytes(), list(b"x"), list(TEXT.encode()))
    assert [piece for piece in got if piece] == list(TEXT)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 256), max_size=30), st.text(max_size=8))
def test_pieces_of_any_bytes_are_the_whole_text(tokens: list[int], prompt: str) -> None:
    got = "".join(pieces(Bytes(), list(prompt.encode()), tokens))
    assert got == Continuation(Bytes())(list(prompt.encode()), tokens)


@pytest.fixture(scope="module", params=["sentencepiece", "byte-level", "metaspace"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "sentencepiece":
        return SentencePiece(train_sentencepiece(TokenizerConfig(vocab_size=360), sample()))
    return HuggingFace(content(byte_level() if request.param == "byte-level" else unigram()), None)


@settings(max_examples=200, deadline=None)
@given(tokens=st.lists(st.integers(0, 359), max_size=30), prompt=st.text(max_size=8))
def test_pieces_of_any_tokens_are_the_whole_text(tokenizer: Tokenizer, tokens: list[int], prompt: str) -> None:
    tokens, ids = [token % tokenizer.vocab_size for token in tokens], tokenizer.encode(prompt)
    assert "".join(pieces(tokenizer, ids, tokens)) == Continuation(tokenizer)(ids, tokens)


@settings(max_examples=300, deadline=None)
@given(st.text("ab\n日", max_size=20), st.lists(st.text("ab\n日", min_size=1, max_size=4), max_size=3))
def test_a_stream_ends_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    """As a decoder does, it ends with the first character that completes one."""
    begun = (text[:n] for n in range(len(text) + 1))
    text = next((part for part in begun if any(stop in part for stop in stops)), text)
    assert "".join(pieces(Bytes(), [], list(text.encode()), tuple(stops))) == cut(text, stops)


def test_a_stop_string_ends_the_sequence_whose_tokens_hold_it() -> None:
    model, config = sharp("rotary", 257), {"decoder": "greedy", "tokens": 12}
    (free,) = decode(Task(model, [[97]], parse_decoding(config), 257, 256, Continuation(Bytes())))[0]
    text = Continuation(Bytes())([97], free.tokens)
    stop = next(character for character in text if character != "\ufffd")
    for values in (config, {"decoder": "beam", "width": 1, "tokens": 12}):
        settings = parse_decoding({**values, "stop": (stop,)})
        ((one,),) = decode(Task(model, [[97]], settings, 257, 256, Continuation(Bytes())))
        assert one.end == "stop" and one.tokens == free.tokens[: len(one.tokens)]
        assert stop in Continuation(Bytes())([97], one.tokens)
        assert stop not in Continuation(Bytes())([97], one.tokens[:-1])


def test_a_comparison_says_which_is_most_probable() -> None:
    task = Task(sharp("rotary", 257), [[97]], parse_decoding({"tokens": 3}), 257, 256, Continuation(Bytes()))
    found = compare(task)
    assert [row.name for row in found.rows] == list(COMPARED)
    row, produced = found.best()
    best = max(produced.logprob for _, produced in found.made())
    assert produced.logprob == best and findings(found)[0] == f"most probable: {row.name}, {best:.3f} nats"
    exhaustive = next(row for row in found.rows if row.name == "exhaustive")
    assert exhaustive.produced is not None and exhaustive.produced.logprob == pytest.approx(best, abs=1e-5)
    json.dumps(found.as_json())
    longer = table("a", compare(Task(**{**vars(task), "config": parse_decoding({"tokens": 9})})))
    assert "exhaustive" in longer and "refused: exhaustive decoding compares 257^9 = about 10^22 sequences" in longer


def test_emitted_tokens_are_those_of_the_result() -> None:
    told: list[tuple[int, int]] = []
    task = Task(sharp("rotary", 9), [[1], [2, 3]], parse_decoding({"tokens": 4}), 9)
    made: list[list[Produced]] = decode(task.emitting(lambda row, token: told.append((row, token))))
    for number, (one,) in enumerate(made):
        assert [token for row, token in told if row == number] == one.tokens
