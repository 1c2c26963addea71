"""Whole sets scored: windows, carried states, words and the neural cache, each against a plain computation."""

from __future__ import annotations

import gzip
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import shared_data
from tests.unit.data.builders import EOS, random_docs, stream, write_set
from tests.unit.test_decode import sharp
from tests.unit.toy_family import TOY
from trainer.config.base import parse_section
from trainer.config.scoring import ScoringConfig
from trainer.contract.errors import UserError
from trainer.data.store.token_set import TokenSet
from trainer.data.tokenize.byte_lengths import ByteLengths
from trainer.data.tokenize.tokenizer import Bytes
from trainer.data.tokenize.word_tokenizer import Words, count_vocabulary
from trainer.evaluation.neural_cache import NeuralCache
from trainer.evaluation.scored import bucket_of, summarise
from trainer.evaluation.scoring import Block, score_carried, score_windows, windows
from trainer.evaluation.stream import Stream, count_bytes, count_words, open_stream
from trainer.models import registry
from trainer.models.interface import LanguageModel

V = 50


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.FAMILIES, "toy", TOY)


def made(count: int, *, documents: bool = False) -> Stream:
    """Return a stream of random tokens; each document has seven."""
    targets = torch.randint(0, V, (count,), generator=torch.Generator().manual_seed(count))
    inputs = torch.cat([torch.tensor([3]), targets[:-1]])
    numbers = (torch.arange(count) // 7).int() if documents else None
    return Stream(inputs, targets, numbers, np.arange(7, count + 1, 7))


def loss_of(model: LanguageModel, inputs: torch.Tensor, target: int) -> float:
    """Return the loss of the token after some inputs, read at once."""
    with torch.inference_mode():
        return -float(model.eval()(inputs[None])[0, -1].double().log_softmax(-1)[target])


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.data())
def test_windows_score_every_token_once_with_the_context_that_is_promised(total: int, C: int, data: Any) -> None:
    stride = data.draw(st.integers(1, C))
    found = list(windows(total, C, stride))
    assert [t for w in found for t in range(w.scored, w.end)] == list(range(total))
    assert all(w.end - w.begin <= C and w.begin <= w.scored for w in found)
    assert all(b.begin - a.begin == stride for a, b in pairwise(found))
    assert all(w.scored - w.begin >= C - stride for w in found[1:])


@pytest.mark.parametrize("family", ["rotary", "learned", "toy"])
@pytest.mark.parametrize(("C", "stride"), [(8, 8), (8, 3), (8, 1), (16, 5)])
def test_each_token_is_scored_from_its_window_alone(family: str, C: int, stride: int) -> None:
    model, tokens = sharp(family, V).double(), made(45)
    blocks = list(score_windows(model, tokens, C, stride, batch=4))
    losses, before = torch.cat([b.losses for b in blocks]), torch.cat([b.before for b in blocks])
    assert torch.equal(torch.cat([b.targets for b in blocks]), tokens.targets)
    for t in range(45):
        first = 0 if t < C else (t - C) // stride * stride + stride  # the first window that reaches t
        expected = loss_of(model, tokens.inputs[first : t + 1], int(tokens.targets[t]))
        assert before[t] == t - first
        assert losses[t] == pytest.approx(expected, abs=1e-5)


def test_a_stride_of_the_context_is_plain_evaluation_and_of_one_the_fullest_context() -> None:
    model, tokens, C = sharp("rotary", V), made(40), 8
    with torch.inference_mode():
        plain = model.eval()(tokens.inputs.view(5, C), tokens.targets.view(5, C)).flatten().double()
    ours = torch.cat([b.losses for b in score_windows(model, tokens, C, C, 2)])
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    fullest = torch.cat([b.losses for b in score_windows(model, tokens, C, 1, 7)])
    for t in range(40):
        expected = loss_of(model, tokens.inputs[max(0, t - C + 1) : t + 1], int(tokens.targets[t]))
        assert fullest[t] == pytest.approx(expected, abs=1e-5)


def test_windows_of_a_masked_model_read_their_own_document() -> None:
    model, tokens = sharp("rotary", V).double(), made(40, documents=True)
    losses = torch.cat([b.losses for b in score_windows(model, tokens, 8, 8, 2)])
    for t in range(40):
        first = max(t // 8 * 8, t // 7 * 7)
        expected = loss_of(model, tokens.inputs[first : t + 1], int(tokens.targets[t]))
        assert losses[t] == pytest.approx(expected, abs=1e-5)  # rotary positions are relative


def test_a_carried_state_is_one_long_reading() -> None:
    model, tokens = sharp("toy", V, 8).double(), made(50)
    blocks = list(score_carried(model, tokens, 8))
    with torch.inference_mode():
        whole = model(tokens.inputs[None], tokens.targets[None])[0]
    torch.testing.assert_close(torch.cat([b.losses for b in blocks]), whole.double(), atol=1e-5, rtol=0)
    assert torch.equal(torch.cat([b.before for b in blocks]), torch.arange(50))


def naive_cache(block: Block, size: int, theta: float, weight: float) -> list[float]:
    """Return the losses of the mixture by the formula of the paper, pair by pair."""
    out = []
    for t in range(len(block.losses)):
        pairs = range(max(0, t - size), t)
        scores = {i: math.exp(theta * float(block.hidden[t] @ block.hidden[i])) for i in pairs}
        p = math.exp(-float(block.losses[t]))
        if scores:
            hits = sum(score for i, score in scores.items() if block.targets[i] == block.targets[t])
            p = (1 - weight) * p + weight * hits / sum(scores.values())
        out.append(-math.log(p))
    return out


@pytest.mark.parametrize(("size", "weight"), [(1, 0.3), (7, 0.1), (1000, 0.5), (20, 0.0)])
@pytest.mark.parametrize("family", ["rotary", "toy"])
def test_the_neural_cache_is_a_naive_loop(
    family: str, size: int, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluation.neural_cache.QUERIES", 5)
    model, tokens = sharp(family, V).double(), made(60)
    tokens = Stream(tokens.inputs % 5, tokens.targets % 5, None, tokens.ends)  # words come again
    blocks = list(score_windows(model, tokens, 8, 4, 3))
    whole = Block(
        *(torch.cat([getattr(b, name) for b in blocks]) for name in ("losses", "before", "targets", "hidden"))
    )
    cache = NeuralCache(size, 0.2, weight)
    ours = torch.cat([cache(block) for block in blocks])
    assert ours.tolist() == pytest.approx(naive_cache(whole, size, 0.2, weight), abs=1e-9)
    if weight == 0:
        assert torch.equal(ours, whole.losses)


def test_losses_are_put_together_as_by_hand() -> None:
    parts = [(torch.tensor([1.0, 2.0]), torch.tensor([0, 1])), (torch.tensor([3.0, 5.0]), torch.tensor([2, 3]))]
    scored = summarise([(losses.double(), before) for losses, before in parts], words=2, text_bytes=10)
    assert (scored.tokens, scored.loss, scored.perplexity) == (4, 2.75, pytest.approx(math.exp(2.75)))
    assert scored.word_perplexity == pytest.approx(math.exp(11 / 2))
    assert scored.bits_per_byte == pytest.approx(11 / math.log(2) / 10)
    rows = [(b.first, b.last, b.tokens, b.loss, b.loss_sem) for b in scored.by_position]
    assert rows == [(0, 0, 1, 1.0, None), (1, 1, 1, 2.0, None), (2, 3, 2, 4.0, 1.0)]
    assert bucket_of(torch.tensor([0, 1, 2, 3, 4, 7, 8, 2**40])).tolist() == [0, 1, 2, 2, 3, 3, 4, 41]


def test_a_stream_is_the_split_in_its_order(tmp_path: Path) -> None:
    docs = {"a": random_docs(1, 20), "b": random_docs(2, 30)}
    write_set(tmp_path, docs, shard_tokens=1024)
    found = open_stream(TokenSet.open(tmp_path), None, documents=True)
    whole = np.concatenate([stream(docs["a"]), stream(docs["b"])])
    assert found.targets.tolist() == whole.tolist() and found.inputs.tolist() == [EOS, *whole[:-1]]
    assert found.documents is not None  # an end token belongs to the document that it begins
    assert found.documents.tolist() == (np.cumsum(found.inputs.numpy() == EOS) - 1).tolist()
    assert found.ends.tolist() == (np.flatnonzero(whole == EOS) + 1).tolist()
    part = open_stream(TokenSet.open(tmp_path), 100, documents=False)
    assert part.targets.tolist() == whole[:100].tolist() and part.documents is None and max(part.ends) <= 100


@pytest.mark.parametrize(
    ("docs", "words"),
    [(["a b\nc\n"], 5), (["a b", "c"], 5), (["a b\nc"], 5), (["", "a"], 3), (["  a \n\n b\n"], 5), (["é ü\n"], 3)],
)
def test_words_are_those_of_word_level_tables(docs: list[str], words: int) -> None:
    """White space separates them, and each line has an end; the last one's may be the document's."""
    pieces = [[*doc.encode(), 256] for doc in docs]
    targets = torch.tensor([token for piece in pieces for token in piece])
    inputs = torch.cat([torch.tensor([256]), targets[:-1]])
    found = Stream(inputs, targets, None, np.cumsum([len(piece) for piece in pieces]))
    assert count_words(found, Bytes()) == words
    assert count_bytes(found, ByteLengths([*[1] * 256, 0]), 256) == sum(len(doc.encode()) for doc in docs)
    cut_off = Stream(inputs[:-1], targets[:-1], None, found.ends[:-1])
    assert count_words(cut_off, Bytes()) == words - (not docs[-1].endswith("\n"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"stride": 0}, "'stride'"), ({"stride": 9, "context": 8}, "leaves out tokens"), ({"cache": 0}, "'cache'"),
        ({"carry_state": True, "stride": 4}, "leave one of them out"), ({"cache_theta": 1}, "without cache"),
        ({"cache": 5, "cache_weight": 1}, "'cache_weight'"), ({"tokens": 0}, "'tokens'"), ({"strid": 4}, "stride"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_section(ScoringConfig, bad, "evaluation")


def test_wikitext_2_has_its_published_counts() -> None:
    texts = {}
    for name in ("train", "valid", "test"):
        with gzip.open(shared_data(f"text/wiki.{name}.tokens.gz")) as file:
            texts[name] = file.read().decode()
    words = Words(count_vocabulary([texts["train"]]))
    assert words.vocab_size == 33_278
    for name, published in {"train": 2_088_628, "valid": 217_646, "test": 245_569}.items():
        ids = [*words.encode(texts[name]), words.eos_id]
        assert len(ids) == published
        if name == "test":
            lines = texts[name].removesuffix("\n").split("\n")
            assert words.decode(ids) == "".join(" ".join(line.split()) + "\n" for line in lines)
