"""The planner's rates of a card on which steps were measured: fitted, kept with its name, and taken from then on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from launch.planner import measured
from launch.planner.expected import step_on_gpus
from launch.planner.fit_rates import fit_rates, fitted_names
from launch.planner.layouts import layouts
from launch.planner.measured import CardRates, MeasuredStep, card_rates, keep_rates, rates_file, rates_of
from launch.planner.rates import RATES, Rates
from launch.planner.shape import shape_of, way_of
from launch.planner.step_time import step_time
from trainer.config.load import run_from_values
from trainer.config.parallel import Degrees
from trainer.config.run import RunConfig
from trainer.plan.counting import count_parameters
from trainer.plan.gpus import GPUS
from trainer.plan.plan import share_out

SHAPES = (("30M", 1024, 16), ("120M", 1024, 16), ("120M", 8192, 2), ("350M", 2048, 8), ("1B", 2048, 4))


def run_of(size: str, context: int, sequences: int) -> RunConfig:
    model = {"size": size, "vocab_size": 50304, "context_length": context}
    values = {"model": model, "data": {}, "batch": {"tokens_per_step": context * sequences}, "steps": 10}
    return run_from_values({**values, "parallel": {"compile": False}}, "a test")


def steps_under(rates: Rates, card: str) -> list[MeasuredStep]:
    """Return steps of one GPU that took as long as the rates say."""
    found = []
    for shape in SHAPES:
        config = run_of(*shape)
        degrees, batch = share_out(config, 1, gpu=True)
        way = way_of(config, degrees, batch, zero=1, ranks_per_node=1)
        parameters = count_parameters(config.model).total
        seconds = step_time(shape_of(config.model), way, GPUS[card], parameters, rates).total
        found.append(MeasuredStep(shape_of(config.model), way, parameters, seconds))
    return found


@pytest.mark.parametrize("card", ["H200-SXM", "A100-SXM-80GB"])
def test_a_fit_finds_the_rates_that_steps_were_made_with(card: str) -> None:
    names = fitted_names(GPUS[card])
    factors = dict(zip(names, (0.8, 1.5, 0.7, 0.3), strict=True))
    true = replace(RATES, **{name: getattr(RATES, name) * factor for name, factor in factors.items()})
    steps = steps_under(true, card)
    found = fit_rates(steps, GPUS[card])
    off = {step_time(s.shape, s.way, GPUS[card], s.parameters, found).total / s.seconds - 1 for s in steps}
    assert max(map(abs, off)) < 0.01, "of the time of a step"
    assert getattr(found, names[0]) == pytest.approx(getattr(true, names[0]), rel=0.1)
    assert {k: v for k, v in asdict(found).items() if k not in names} == {
        k: v for k, v in asdict(RATES).items() if k not in names
    }


def test_kept_rates_are_taken_for_that_card_alone_and_the_plan_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, config = GPUS["H200-SXM"], run_of("120M", 1024, 16)
    _, batch = share_out(config, 1, gpu=True)

    def planned(name: str) -> float:
        return step_on_gpus(config, Degrees(1, 1, 1), batch, GPUS[name], ranks_per_node=1).total

    before = {name: planned(name) for name in ("H200-SXM", "H100-SXM")}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = keep_rates(card, CardRates(replace(RATES, step=2 * RATES.step), "2026-11-29", 6))
    assert file == rates_file({"XDG_CACHE_HOME": str(tmp_path)}) and json.loads(file.read_text()).keys() == {card.name}
    assert rates_of(card).step == 2 * RATES.step and rates_of(GPUS["H100-SXM"]) == RATES
    assert planned("H200-SXM") == pytest.approx(before["H200-SXM"] + RATES.step)
    assert planned("H100-SXM") == before["H100-SXM"]
    assert "fitted to 6 steps measured on a H200-SXM on 2026-11-29" in " ".join(
        layouts(config, world=1, gpu="H200").notes
    )
    file.write_text('{"H200-SXM": {"rates": {"unknown": 1}}, "H100-SXM": 3}')
    measured._kept.cache_clear()
    assert card_rates(card) is None and rates_of(card) == RATES, "what another version wrote is not taken"
    measured._kept.cache_clear()
