"""A family that lives in one file is read, counted, planned and sampled; tests/dist trains it on ranks."""

from __future__ import annotations

import pytest
import torch

from tests.unit.toy_family import TOY, VOCAB, toy
from trainer.config.decoding import parse_decoding
from trainer.contract.errors import UserError
from trainer.decoding.task import Task, decode
from trainer.models import registry
from trainer.models.build import build_model
from trainer.plan.counting import count_parameters
from trainer.plan.plan import make_plan


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.FAMILIES, "toy", TOY)


def test_its_keys_are_its_own() -> None:
    assert toy().model.gain == 1.0  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"unknown key 'model\.gian'"):
        toy(model={"family": "toy", "d_model": 16, "n_layers": 2, "gian": 2})
    with pytest.raises(UserError, match=r"unknown key 'model\.n_heads'"):
        toy(model={"family": "toy", "d_model": 16, "n_layers": 2, "n_heads": 2})


def test_it_is_counted_and_planned() -> None:
    config = toy()
    built = sum(parameter.numel() for parameter in build_model(config.model, 0).parameters())
    assert count_parameters(config.model).total == built
    plan = make_plan(config, world=2)
    assert plan.parameters["mixing"] == 2 * (16 * 16 + 16)
    assert plan.memory_bytes["parameters"] == built * 4
    with pytest.raises(UserError, match="the toy cannot be split"):
        make_plan(toy(parallel={"tensor": 2}), world=2)


def test_its_state_gives_what_the_whole_text_gives() -> None:
    model = build_model(toy().model, 0).eval()
    tokens, state = torch.randint(0, VOCAB, (2, 12)), model.initial_state()
    with torch.no_grad():
        whole = model(tokens)
        parts = [model(part, state=state) for part in tokens.split([5, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    made = decode(Task(model, tokens.tolist(), parse_decoding({"decoder": "greedy", "tokens": 30}), VOCAB))
    assert [len(one.tokens) for (one,) in made] == [30, 30]
