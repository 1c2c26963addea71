"""What a run costs: the seconds of its GPUs or cores, their price, and the energy where the machine tells it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from trainer.contract.errors import UserError
from trainer.observe.metrics import PRICE

GPUS, CORES = "gpu_seconds", "core_seconds"


@dataclass(frozen=True)
class Costs:
    """What one attempt takes: `devices` of all ranks, GPUs or cores, each at `price` an hour.

    `joules` returns what the whole run took since the start of the attempt, or None.
    """

    unit: str
    devices: int
    price: float | None = None
    joules: Callable[[], float | None] = lambda: None

    def after(self, wall_seconds: float) -> dict[str, float]:
        """Return the keys of a row that are known: `gpu_seconds` or `core_seconds`, `cost`, `energy_joules`."""
        seconds, joules = wall_seconds * self.devices, self.joules()
        found = {self.unit: seconds}
        if self.price is not None:
            found["cost"] = seconds / 3600 * self.price
        if joules is not None:
            found["energy_joules"] = joules
        return found


def price_from_environment() -> float | None:
    """Return the price that the launcher handed on, None where the cluster file says none. Raises `UserError`."""
    text = os.environ.get(PRICE)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise UserError(f"{PRICE} is {text!r}, which is no number: set gpu_price in the cluster file") from None
