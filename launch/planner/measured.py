"""Rates of cards on which steps were measured: those of this machine's user, else those that ship, else the published.

`python -m benchmarks.gpu` fits them to the steps of its `memory` section and keeps them for the user who ran it, with
the card's name and the day. To ship them for everybody, put them into `MEASURED`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from launch.planner.rates import RATES, Rates
from launch.planner.shape import Way
from trainer.contract.plain_json import DamagedFileError, read_object, to_json
from trainer.contract.run_dir import write_atomically
from trainer.plan.gpus import Gpu
from trainer.plan.shape import Shape


@dataclass(frozen=True)
class MeasuredStep:
    """A step of a model as it was run on one card."""

    shape: Shape
    way: Way
    parameters: int
    seconds: float


@dataclass(frozen=True)
class CardRates:
    """The rates of a card, and how they were come by."""

    rates: Rates
    date: str
    steps: int  # that they were fitted to


MEASURED: dict[str, CardRates] = {}  # by the name in the table of GPUs; no card was measured yet


def rates_of(gpu: Gpu, environment: Mapping[str, str] = os.environ) -> Rates:
    """Return the rates that the planner takes for a card."""
    found = card_rates(gpu, environment)
    return RATES if found is None else found.rates


def card_rates(gpu: Gpu, environment: Mapping[str, str] = os.environ) -> CardRates | None:
    """Return what was measured on such a card, by this user before all; None where nothing was."""
    return _kept(rates_file(environment)).get(gpu.name, MEASURED.get(gpu.name))


def keep_rates(gpu: Gpu, found: CardRates, environment: Mapping[str, str] = os.environ) -> Path:
    """Keep the rates of a card for this user, and return the file."""
    file = rates_file(environment)
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: asdict(card) for name, card in {**_read(file), gpu.name: found}.items()}
    write_atomically(file, to_json(kept, indent=1) + "\n")
    _kept.cache_clear()
    return file


def rates_file(environment: Mapping[str, str]) -> Path:
    """Return the user's file of rates by the names of cards."""
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home(), ".cache")
    return Path(home, "escala", "planner_rates.json")


@cache
def _kept(file: Path) -> dict[str, CardRates]:
    return _read(file)


def _read(file: Path) -> dict[str, CardRates]:
    """Return what the file holds; nothing of a card whose rates are none of ours, which a newer version wrote."""
    try:
        values: dict[str, Any] = read_object(file) if file.exists() else {}
    except DamagedFileError:  # it is measured anew
        return {}
    found = {}
    for name, value in values.items():
        try:
            found[name] = CardRates(Rates(**value["rates"]), str(value["date"]), int(value["steps"]))
        except (KeyError, TypeError, ValueError):
            continue
    return found
