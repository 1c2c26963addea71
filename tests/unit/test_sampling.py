"""What is drawn: each cut of a distribution against its definition, and draws against the distribution (chi-square)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from tests.unit.test_decode import sharp
from trainer.config.decoding import parse_decoding
from trainer.decoding.distribution import draw, penalised, shaped
from trainer.decoding.task import Task, decode

transformers = pytest.importorskip("transformers")

LOGITS = torch.tensor([2.0, 1.5, 1.4, 0.3, 0.0, -0.5, -1.0, -2.0, -3.5, 0.9])
SAMPLERS: list[dict[str, Any]] = [
    {"temperature": 1.0}, {"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2},
    {"typical": 0.6}, {"repetition_penalty": 1.8}, {"top_k": 6, "top_p": 0.8, "min_p": 0.1, "temperature": 1.5},
]  # fmt: skip
SEEN = (0, 5)


def defined(logits: np.ndarray, values: dict[str, Any]) -> np.ndarray:
    """Return the distribution of the definitions, token by token, in plain Python."""
    x = list(logits.astype(float))
    penalty = values.get("repetition_penalty", 1.0)
    for token in SEEN if penalty != 1 else ():
        x[token] = x[token] / penalty if x[token] > 0 else x[token] * penalty
    p = softmax([v / values.get("temperature", 1.0) for v in x])
    if k := values.get("top_k"):
        p = only(p, sorted(range(len(p)), key=lambda t: -p[t])[:k])
    if mass := values.get("top_p"):
        p = only(p, first_reaching(p, sorted(range(len(p)), key=lambda t: -p[t]), mass))
    if share := values.get("min_p"):
        p = only(p, [t for t in range(len(p)) if p[t] >= share * max(p)])
    if mass := values.get("typical"):
        entropy = -sum(q * math.log(q) for q in p if q > 0)
        by_surprise = sorted((t for t in range(len(p)) if p[t] > 0), key=lambda t: abs(-math.log(p[t]) - entropy))
        p = only(p, first_reaching(p, by_surprise, mass))
    return np.array(p)


def softmax(x: list[float]) -> list[float]:
    return [math.exp(v) / sum(math.exp(w) for w in x) for v in x]


def only(p: list[float], kept: list[int]) -> list[float]:
    total = sum(p[t] for t in kept)
    return [p[t] / total if t in kept else 0.0 for t in range(len(p))]


def first_reaching(p: list[float], order: list[int], mass: float) -> list[int]:
    kept: list[int] = []
    while sum(p[t] for t in kept) < mass and len(kept) < len(order):
        kept.append(order[len(kept)])
    return kept


def seen(values: dict[str, Any], logits: Tensor) -> Tensor | None:
    if "repetition_penalty" not in values:
        return None
    return torch.zeros_like(logits, dtype=torch.bool).index_fill(1, torch.tensor(SEEN), True)


def test_temperature_divides() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    at_half = shaped(logits, parse_decoding({"temperature": 0.5})).softmax(-1)
    assert at_half[0].tolist() == pytest.approx([0.727, 0.182, 0.0455, 0.0455], abs=1e-3)
    coldest = shaped(torch.tensor([[1e4, -1e4, 0.0]]), parse_decoding({"temperature": 1e-6})).softmax(-1)
    assert coldest[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("values", SAMPLERS, ids=str)
def test_the_distribution_is_that_of_the_definition(values: dict[str, Any]) -> None:
    logits = LOGITS[None].double()
    got = shaped(logits, parse_decoding({"temperature": 1.0, **values}), seen(values, logits)).softmax(-1)
    assert got[0].numpy() == pytest.approx(defined(LOGITS.numpy(), values), abs=1e-6)


@pytest.mark.parametrize("values", SAMPLERS, ids=str)
def test_what_is_drawn_passes_a_chi_square_test(values: dict[str, Any]) -> None:
    n = 20_000
    logits = LOGITS.expand(n, -1)
    uniform = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = draw(shaped(logits, parse_decoding({"temperature": 1.0, **values}), seen(values, logits)), uniform)
    passes(torch.bincount(drawn, minlength=10).numpy(), defined(LOGITS.numpy(), values))


@pytest.mark.parametrize("values", [{}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.3}, {"typical": 0.5}], ids=str)
def test_whole_sequences_of_a_model_pass_a_chi_square_test(values: dict[str, Any]) -> None:
    """Two tokens each, from the decoder itself with its own random numbers."""
    model, V, n = sharp("rotary", 4), 4, 4000
    config = parse_decoding({"temperature": 1.0, **values, "count": n, "tokens": 2, "seed": 5})
    (made,) = decode(Task(model, [[1]], config, V))
    counts = np.zeros((V, V))
    for one in made:
        counts[one.tokens[0], one.tokens[1]] += 1

    def of(history: list[int]) -> np.ndarray:
        with torch.inference_mode():
            return defined(model(torch.tensor([history]))[0, -1].numpy(), values)

    expected = np.array([of([1])[first] * of([1, first]) for first in range(V)])
    passes(counts.ravel(), expected.ravel())


def passes(counts: np.ndarray, expected: np.ndarray) -> None:
    """Assert that counts are a draw from a distribution, at 1 %; nothing impossible came."""
    possible = expected > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert stats.chisquare(counts[possible], expected[possible] * counts.sum()).pvalue > 0.01


def test_draws_of_a_false_distribution_fail_it() -> None:
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = torch.bincount(draw(LOGITS.expand(20_000, -1) * 1.05, uniform), minlength=10).numpy()
    with pytest.raises(AssertionError):
        passes(drawn, defined(LOGITS.numpy(), {}))


def test_the_largest_and_the_smallest_random_numbers_draw_possible_tokens() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]).expand(2, -1)
    assert draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [1, 3]


def test_the_penalty_is_the_published_one_and_never_a_reward() -> None:
    """Keskar et al. 2019: x / theta for tokens that were there. They have no negative logits in mind."""
    logits, there = torch.tensor([[3.0, 2.0, -1.0]]), torch.tensor([[True, False, True]])
    assert penalised(logits, there, 1.2)[0].tolist() == pytest.approx([3.0 / 1.2, 2.0, -1.2])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["top_k", "top_p", "min_p", "typical", "repetition_penalty"]))
def test_each_cut_is_that_of_transformers(seed: int, name: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 30, generator=generator) * 3
    ids = torch.randint(0, 30, (3, 6), generator=generator)
    there = torch.zeros_like(logits, dtype=torch.bool).scatter(1, ids, True)
    value: Any = {"top_k": 7, "top_p": 0.8, "min_p": 0.1, "typical": 0.7, "repetition_penalty": 1.3}[name]
    warper = {
        "top_k": transformers.TopKLogitsWarper, "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper, "typical": transformers.TypicalLogitsWarper,
        "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor,
    }[name](value)  # fmt: skip
    ours = shaped(logits, parse_decoding({"temperature": 1.0, name: value}), there if "rep" in name else None)
    assert ours.softmax(-1).numpy() == pytest.approx(warper(ids, logits).softmax(-1).numpy(), abs=1e-6)
