"""Decoders: the cache and the batch change nothing, searches find what brute force finds, and endings are kept."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.data.builders import EOS, random_docs, write_set
from tests.unit.toy_family import TOY, toy
from trainer.config.decoding import parse_decoding
from trainer.contract.errors import UserError
from trainer.data.read.batches import to_micro_batch
from trainer.data.read.packing import PackedSet
from trainer.data.store.token_set import TokenSet
from trainer.data.tokenize.tokenizer import Bytes
from trainer.data.tokenize.word_tokenizer import Words, count_vocabulary
from trainer.decoding import exhaustive
from trainer.decoding.sample import first_tokens
from trainer.decoding.task import Produced, Task, decode, normalised
from trainer.models import registry
from trainer.models.build import build_model
from trainer.models.interface import LanguageModel
from trainer.models.transformer.config import TransformerConfig

FAMILIES = ("rotary", "learned", "toy")


def tiny(**changes: Any) -> LanguageModel:
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 50, "context_length": 16}
    return build_model(TransformerConfig(**{**shape, **changes}), seed=1)


def sharp(family: str, vocab_size: int, context_length: int = 16) -> LanguageModel:
    """Return a model whose distributions are far from even, so that decoders differ."""
    if family == "toy":
        shape = {"family": "toy", "d_model": 16, "n_layers": 2}
        model = build_model(toy(model={**shape, "vocab_size": vocab_size, "context_length": context_length}).model, 1)
    else:
        model = tiny(position=family, vocab_size=vocab_size, context_length=context_length)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.5)
    return model


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.FAMILIES, "toy", TOY)


def run(model: LanguageModel, prompts: list[list[int]], eos: int | None = None, **values: Any) -> list[list[Produced]]:
    return decode(Task(model, prompts, parse_decoding(values), model.config.vocab_size or 0, eos))


def score(model: LanguageModel, prompt: list[int], tokens: list[int]) -> float:
    """Return the log-probability of a continuation, read at once without a state."""
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1]
    return float(logits.double().log_softmax(-1)[range(len(tokens)), tokens].sum())


def complete(V: int, T: int, eos: int | None) -> list[list[int]]:
    """Return every sequence that ends with `eos` or has T tokens."""
    whole = [list(s) for n in range(1, T + 1) for s in itertools.product(range(V), repeat=n)]
    return [s for s in whole if eos not in s[:-1] and (len(s) == T or s[-1] == eos)]


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_equals_reading_everything_again(family: str) -> None:
    model = sharp(family, 50)
    for (one,), prompt in zip(
        run(model, [[3, 7, 1], [9, 9, 2]], decoder="greedy", tokens=10), ([3, 7, 1], [9, 9, 2]), strict=True
    ):
        history = list(prompt)
        for token in one.tokens:
            with torch.inference_mode():
                assert int(model(torch.tensor([history]))[0, -1].argmax()) == token
            history.append(token)
        assert one.logprob == pytest.approx(score(model, prompt, one.tokens), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("values", [{"decoder": "greedy"}, {"temperature": 1.2}, {"decoder": "beam", "width": 3}])
def test_prompts_side_by_side_are_what_they_are_alone(family: str, values: dict[str, Any]) -> None:
    """Of unequal lengths, on beyond the context, one longer than the context."""
    model, prompts = sharp(family, 50).double(), [[4], [1, 2, 3, 4, 5, 6], [7, 8], [*range(30)]]
    together = run(model, prompts, tokens=25, eos=11, **values)
    for prompt, (one,) in zip(prompts, together, strict=True):
        ((alone,),) = run(model, [prompt], tokens=25, eos=11, **values)
        assert (one.tokens, one.end) == (alone.tokens, alone.end)
        assert one.logprob == pytest.approx(alone.logprob, abs=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_single_precision_leaves_less_than_1e_5_between_them(family: str) -> None:
    model = tiny(position=family) if family != "toy" else sharp(family, 50)
    prompts = [[4], [1, 2, 3, 4, 5, 6], [7, 8]]
    for prompt, (one,) in zip(prompts, run(model, prompts, tokens=10, temperature=1.0), strict=True):
        ((alone,),) = run(model, [prompt], tokens=10, temperature=1.0)
        assert one.tokens == alone.tokens and one.logprob == pytest.approx(alone.logprob, abs=1e-5)


def test_decoding_goes_on_beyond_the_context() -> None:
    model = tiny()
    ((one,),) = run(model, [[1]], decoder="greedy", tokens=50)
    assert len(one.tokens) == 50
    read = [1, *one.tokens[:16]]  # one more than the context: its later half is read as a beginning
    with torch.inference_mode():
        assert int(model(torch.tensor([read[-8:]]))[0, -1].argmax()) == one.tokens[16]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("V", "T", "eos"), [(5, 4, None), (5, 4, 2), (3, 6, 0), (7, 1, 1)])
def test_exhaustive_decoding_and_a_beam_of_all_prefixes_are_brute_force(
    family: str, V: int, T: int, eos: int | None
) -> None:
    model, prompt = sharp(family, V), [1, 2]
    scores = {tuple(s): score(model, prompt, s) for s in complete(V, T, eos)}
    best = max(scores, key=lambda s: scores[s])
    for values in ({"decoder": "exhaustive"}, {"decoder": "beam", "width": V**T}):
        ((found,),) = run(model, [prompt], eos=eos, tokens=T, **values)
        assert tuple(found.tokens) == best
        assert found.logprob == pytest.approx(scores[best], abs=1e-5)
        assert found.end == ("end" if best[-1] == eos else "length")


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_beam_of_all_prefixes_ranks_all_sequences_by_their_normalised_scores(alpha: float) -> None:
    model, prompt, T = sharp("rotary", 4), [1], 4
    ranked = sorted(complete(4, T, 2), key=lambda s: -normalised(score(model, prompt, s), len(s), alpha))
    (found,) = run(model, [prompt], eos=2, tokens=T, decoder="beam", width=4**T, length_alpha=alpha, count=20)
    assert [one.tokens for one in found] == ranked[:20]


def test_exhaustive_decoding_says_how_many_sequences_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"50\^9 = about 10\^15 sequences, more than 33,554,432: lower tokens to 4"):
        run(tiny(), [[1]], decoder="exhaustive", tokens=9)
    with pytest.raises(UserError, match=r"about 10\^16990 sequences"):
        run(tiny(), [[1]], decoder="exhaustive", tokens=10_000)
    monkeypatch.setattr(exhaustive, "MOST_SEQUENCES", 49)
    with pytest.raises(UserError, match=r"50\^1 = 50 sequences, more than 49: the vocabulary is too large"):
        run(tiny(), [[1]], decoder="exhaustive", tokens=1)


def test_blocks_change_nothing_of_an_exhaustive_search(monkeypatch: pytest.MonkeyPatch) -> None:
    model = sharp("rotary", 6)
    whole = run(model, [[1]], decoder="exhaustive", tokens=4, eos=3)
    monkeypatch.setattr(exhaustive, "BLOCK", 3)
    assert run(model, [[1]], decoder="exhaustive", tokens=4, eos=3)[0][0].tokens == whole[0][0].tokens


def test_a_beam_of_one_is_greedy() -> None:
    model = sharp("rotary", 50)
    greedy, beam = (run(model, [[1]], **v, tokens=12) for v in ({"decoder": "greedy"}, {"decoder": "beam", "width": 1}))
    assert greedy[0][0].tokens == beam[0][0].tokens


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_the_best_of_draws_is_the_most_probable_of_the_same_draws(seed: int, count: int) -> None:
    model, common = tiny(vocab_size=8), {"tokens": 5, "seed": seed, "temperature": 1.5}
    (draws,) = run(model, [[1]], eos=3, count=9, **common)
    (best,) = run(model, [[1]], eos=3, decoder="best_of", draws=9, count=count, **common)
    assert [one.logprob for one in best] == sorted((one.logprob for one in draws), reverse=True)[:count]


def test_sampling_is_repeated_by_its_seed() -> None:
    sampled = [run(tiny(), [[1]], tokens=20, temperature=1.0, top_p=0.9, seed=seed)[0][0] for seed in (0, 0, 1, -1)]
    assert sampled[0] == sampled[1]
    assert len({tuple(one.tokens) for one in sampled}) == 3


def test_a_sequence_ends_with_its_end_token_which_counts() -> None:
    model = sharp("rotary", 50)
    ((free,),) = run(model, [[1]], decoder="greedy", tokens=12)
    eos = free.tokens[5]
    ((one,),) = run(model, [[1]], decoder="greedy", tokens=12, eos=eos)
    assert one.end == "end" and one.tokens == free.tokens[: free.tokens.index(eos) + 1]
    assert one.logprob == pytest.approx(score(model, [1], one.tokens), abs=1e-5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"temperature": t}, "'temperature'") for t in (-1, math.nan, math.inf, 1e-40)]
    + [
        ({"top_k": 0}, "'top_k': input should be greater than or equal to 1"),
        ({"top_p": 0.0}, "'top_p'"), ({"top_p": 2}, "'top_p': input should be less than or equal to 1"),
        ({"top_p": math.nan}, "'top_p'"), ({"min_p": 1.1}, "'min_p'"), ({"typical": -1}, "'typical'"),
        ({"repetition_penalty": 0.5}, "'repetition_penalty'"), ({"seed": 2**64}, "'seed'"), ({"tokens": 0}, "'tokens'"),
        ({"decoder": "beam", "width": 0}, "'width'"), ({"decoder": "beam", "count": 5}, "width 4 has no 5 sequences"),
        ({"decoder": "best_of", "count": 9}, "the best 9 of 8 draws"), ({"stop": ("",)}, "an empty text"),
        ({"decoder": "bean"}, "did you mean 'beam'"), ({"decoder": "beam", "top_k": 3}, "top_k has no effect"),
        ({"decoder": "exhaustive", "count": 2}, "count has no effect on the decoder exhaustive"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_decoding(bad)


@pytest.mark.parametrize("decoder", ["greedy", "ancestral", "best_of", "beam", "exhaustive"])
def test_a_diverged_model_is_no_traceback(decoder: str) -> None:
    model = tiny()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(math.nan)
    with pytest.raises(UserError, match="not finite numbers"):
        run(model, [[1]], decoder=decoder, tokens=2)


def test_confined_models_read_an_end_token_before_a_prompt() -> None:
    assert first_tokens(Bytes(), "ab", confined=True) == [256, 97, 98]
    assert first_tokens(Bytes(), "ab", confined=False) == [97, 98]
    assert first_tokens(Bytes(), "", confined=False) == first_tokens(Bytes(), "", confined=True) == [256]


def test_a_model_of_words_reads_whole_lines() -> None:
    words = Words(count_vocabulary(["a b\n" * 3 + "a\n"]))
    eos, a, b = words.eos_id, *words.encode("a b")
    assert first_tokens(words, "", confined=False) == [eos]
    assert first_tokens(words, "a b", confined=False) == [eos, a, b]
    assert first_tokens(words, "a b\na\n", confined=True) == [eos, a, b, eos, a, eos]


def test_decoding_from_the_end_token_is_what_packed_training_showed(tmp_path: Path) -> None:
    """The loss of each document's first token in packed and in masked batches is that of decoding without a prompt."""
    write_set(tmp_path, {"a": random_docs(1, 60)})
    model = tiny(vocab_size=1000)
    alone = -model(torch.tensor([[EOS]]))[0, 0].log_softmax(-1)
    tokens = TokenSet.open(tmp_path)
    packed, masked = PackedSet(tokens, 16).arrays, tokens.arrays
    for arrays in (packed(np.arange(40), 16), masked(np.arange(40), 16, documents=True)):
        batch = to_micro_batch(arrays)
        losses = model(batch.inputs, batch.targets, documents=batch.documents)
        begins = batch.inputs == EOS if batch.weights is None else (batch.inputs == EOS) & (batch.weights > 0)
        assert begins.sum() > 10
        assert torch.allclose(losses[begins], alone[batch.targets[begins]], atol=1e-4)
