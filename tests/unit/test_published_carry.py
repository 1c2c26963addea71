"""Lanes of the families that reproduce papers go on where they were: truncated backpropagation through time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.test_published import KINDS, T, config_of, tokens
from trainer.config.base import parse_section
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.models.build import build_model


@pytest.mark.parametrize("kind", KINDS)
def test_segments_with_a_carried_state_have_the_losses_of_the_whole(kind: str) -> None:
    model, text = build_model(config_of(kind, carry=True), 0).eval(), tokens()
    state = model.carried_state()
    with torch.no_grad():
        parts = [model(part, part, state=state) for part in text.split(5, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(text, text), atol=1e-5, rtol=1e-5)
    assert model.config.carries and model.state_limit is None


def test_what_is_carried_needs_streams() -> None:
    def run(order: str) -> RunConfig:
        values: dict[str, Any] = {"model": config_of("lstm", carry=True), "data": {"order": order}, "steps": 2}
        return parse_section(RunConfig, {**values, "batch": {"tokens_per_step": 2 * T}}, "test")

    assert run("streams").model.carries
    with pytest.raises(UserError, match=r"set data\.order to streams"):
        run("shuffled")
