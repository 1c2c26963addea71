"""The families that reproduce papers compute on data ranks, at every ZeRO stage, what one process computes."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import TOKENS, VOCAB, reference, spread, tiny
from tests.dist.test_parity import LOSS, NORM, assert_same_curves
from trainer.config.run import RunConfig

MODELS: dict[str, dict[str, Any]] = {
    "lstm": {
        "family": "recurrent", "d_model": 16, "widths": [24, 16], "activation_penalty": 1.0, "slowness_penalty": 1.0,
        "adaptive": {"cutoffs": [8, 24], "factor": 2, "input": True},
    },
    "qrnn": {"family": "recurrent", "cell": "qrnn", "window": 2, "d_model": 16, "widths": [24, 16]},
    "gcnn": {
        "family": "convolutional", "d_model": 12, "tied_embeddings": False,
        "blocks": [{"layers": [[3, 16]], "repeat": 2}, {"layers": [[1, 8], [2, 24]]}],
        "adaptive": {"cutoffs": [8, 24], "factor": 2},
    },
    "tcn": {
        "family": "convolutional", "d_model": 16, "unit": "relu", "dilation": 2,
        "blocks": [{"layers": [[2, 16], [2, 16]], "repeat": 2}],
    },
}  # fmt: skip


def run_of(name: str, model: dict[str, Any] | None = None, **parallel: Any) -> RunConfig:
    """Return the tiny run with another model."""
    config = tiny(parallel=parallel).model_dump(mode="json")
    values = {**MODELS[name], "vocab_size": VOCAB, "context_length": TOKENS, **(model or {})}
    return RunConfig.model_validate({**config, "model": values})


@functools.cache
def plain(name: str, masked: bool) -> list[tuple[float, float]]:
    return reference(run_of(name), masked=masked)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_two_data_ranks_equal_one(ranks: RankPool, name: str, zero_stage: int) -> None:
    masked = zero_stage == 2
    curves = ranks.run(2, spread, run_of(name, zero_stage=zero_stage), 2, masked, zero_stage == 1)
    assert_same_curves(curves, plain(name, masked), LOSS, NORM)


DROPPED = {
    "variational": True, "dropout": 0.2, "input_dropout": 0.2, "hidden_dropout": 0.2, "word_dropout": 0.1,
    "weight_drop": 0.3,
}  # fmt: skip


@pytest.mark.parametrize("only", [{}, {"dropout": 0.0, "input_dropout": 0.0, "hidden_dropout": 0.0}], ids=str)
def test_every_dropout_repeats(ranks: RankPool, only: dict[str, float]) -> None:
    """Also without the one that all families have: the engine seeds whatever a model draws."""
    config = run_of("lstm", {**DROPPED, **only})
    first, second = ranks.run(2, spread, config, 2), ranks.run(2, spread, config, 2)
    assert first == second
    assert first[0][0] != plain("lstm", False)[0]
