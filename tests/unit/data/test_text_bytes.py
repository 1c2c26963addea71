"""Bits per byte: the bytes of the evaluated targets, not the mean of the split that they are a sample of."""

from __future__ import annotations

import math
import random

import pytest
import torch

from tests.unit.data.builders import write_shards
from trainer.config.data import TokenizerConfig
from trainer.data.read.batches import MicroBatch, held_out
from trainer.data.store.manifest import Manifest
from trainer.data.store.token_set import TokenSet
from trainer.data.tokenize.byte_lengths import byte_lengths
from trainer.data.tokenize.tokenizer import Tokenizer, load_tokenizer
from trainer.data.tokenize.tokenizer_training import make_tokenizer
from trainer.evaluation.perplexity import evaluate
from trainer.evaluation.text_bytes import TextBytes

T = 32
WORDS = {
    "en": ["the", "cat", "sat", "on", "a", "mat", "and", "ran"],
    "ru": ["кошка", "сидела", "на", "коврике", "и", "убежала", "猫", "🐈"],
}


def texts(language: str, count: int) -> list[str]:
    chance = random.Random(language)
    return [" ".join(chance.choices(WORDS[language], k=chance.randint(1, 30))) for _ in range(count)]


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def two_languages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    """A held-out split of two languages, whose tokens stand for different numbers of bytes. Characters are cut."""
    path = tmp_path_factory.mktemp("data")
    config = (
        TokenizerConfig(kind=request.param, vocab_size=290) if request.param == "bpe" else TokenizerConfig(kind="bytes")
    )
    tokenizer = make_tokenizer(config, iter(texts("en", 200) + texts("ru", 5)), path / "tokenizer")
    shards = [
        shard
        for language in WORDS
        for shard in write_shards(
            path,
            "held_out",
            language,
            [tokenizer.encode(t) for t in texts(language, 60)],
            500,
            "uint16",
            tokenizer.eos_id,
        )
    ]
    Manifest(
        name="made", complete=True, dtype="uint16", vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id,
        tokenizer_hash=tokenizer.hash, config_hash="", config={}, splits={"held_out": shards},
    ).save(path)  # fmt: skip
    return TokenSet.open(path, "held_out")


def counter(token_set: TokenSet) -> TextBytes:
    return TextBytes(byte_lengths(token_set.fetch("tokenizer")), token_set.manifest.eos_id)


OPTIONS = [{}, {"documents": True}, {"documents": True, "packed": True}]


@pytest.mark.parametrize("tokens", [1, 200, 1000, 10**6])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_bytes_of_a_sample_are_those_of_its_text(two_languages: TokenSet, tokens: int, options: dict) -> None:
    """Against the texts: of each document, the bytes up to where the targets end, less those up to where they begin."""
    count = counter(two_languages)
    counted = sum(count(batch) for batch in held_out(two_languages, T, tokens, 3, **options))
    tokenizer = load_tokenizer(two_languages.fetch("."))
    available = two_languages.num_samples(T)
    number = min(available, -(-tokens // T))
    begins = [int(two_languages.begins(torch.tensor([k * available // number]).numpy(), T)[0]) for k in range(number)]
    expected = sum(text_between(two_languages, tokenizer, begin + 1, begin + 1 + T) for begin in begins)
    assert abs(counted - expected) <= 3 * len(begins), "a stretch may begin or end within a character"
    if number == available:  # they follow each other, so what one lacks the next has
        assert abs(counted - expected) <= 3 * len(two_languages.sources)


def text_between(token_set: TokenSet, tokenizer: Tokenizer, begin: int, end: int) -> int:
    stream = token_set.read(torch.tensor([0]).numpy(), token_set.manifest.tokens("held_out"))[0].tolist()
    first = max((k + 1 for k in range(begin) if stream[k] == tokenizer.eos_id), default=0)
    return size(tokenizer, stream[first:end]) - size(tokenizer, stream[first:begin])


def size(tokenizer: Tokenizer, ids: list[int]) -> int:
    """Return the bytes of whole documents and of the whole characters of the one that is cut."""
    total = 0
    while ids:
        cut = ids.index(tokenizer.eos_id) if tokenizer.eos_id in ids else len(ids)
        total += len(tokenizer.decode(ids[:cut]).rstrip("\ufffd").encode())
        ids = ids[cut + 1 :]
    return total


class OneNat:
    """An engine that loses one nat on each token."""

    def token_losses(self, batch: MicroBatch) -> torch.Tensor:
        return torch.ones(batch.targets.shape)


class Alone:
    data_group = None


def test_bits_per_byte_of_a_sample_and_of_the_split(two_languages: TokenSet) -> None:
    found = {}
    for tokens in (T, 10**6):
        evaluation = evaluate(
            OneNat(), Alone(), held_out(two_languages, T, tokens, 4), name="held_out", position_buckets=4,
            text_bytes=counter(two_languages),
        )  # type: ignore[arg-type]  # fmt: skip
        assert evaluation.bits_per_byte == pytest.approx(
            evaluation.evaluated_tokens / math.log(2) / evaluation.evaluated_bytes
        )
        found[tokens] = evaluation
    part, whole = found[T], found[10**6]
    if two_languages.manifest.vocab_size > 257:  # the first stretch is of one language alone
        mean = whole.evaluated_bytes / whole.evaluated_tokens
        assert abs(part.evaluated_bytes / part.evaluated_tokens / mean - 1) > 0.1
    text = sum(len(t.encode()) for language in WORDS for t in texts(language, 60))
    left = two_languages.manifest.tokens("held_out") - whole.evaluated_tokens
    assert text - 20 * left <= whole.evaluated_bytes <= text
    assert evaluate(
        OneNat(), Alone(), held_out(two_languages, T, T, 4), name="x", position_buckets=4, text_bytes=None
    ).bits_per_byte is None  # type: ignore[arg-type]  # fmt: skip
