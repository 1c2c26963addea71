"""A fixed sample of mutated Hugging Face files; `python -m tests.unit.foreign --count 500` tries many more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("transformers")

import transformers

from tests.unit.foreign.__main__ import outcomes

SAMPLE = {"models": 24, "tokenizers": 150}
MORE = {"models": 40, "tokenizers": 100}  # a model is built here and by transformers, which takes a while


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(before)
    transformers.logging.enable_progress_bar()


@pytest.mark.parametrize("kind", SAMPLE)
def test_mutated_files_are_taken_exactly_or_refused_by_name(kind: str) -> None:
    found = [one for _, one in outcomes(kind, 0, SAMPLE[kind])]
    assert [one for one in found if one.wrong] == []
    assert len(found) / 5 < sum(one.imported for one in found) < len(found) * 4 / 5  # neither is all there is


@pytest.mark.slow
@pytest.mark.parametrize("kind", SAMPLE)
def test_many_mutated_files(kind: str) -> None:
    assert [one for _, one in outcomes(kind, 1000, MORE[kind]) if one.wrong] == []
