"""What runs cost, in words: from the keys that rows of metrics.jsonl, result.json and the ledger have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from trainer.observe.metrics import COSTS

HOUR, KILOWATT_HOUR = 3600.0, 3.6e6


def costs_of(row: Mapping[str, object]) -> dict[str, float]:
    """Return the costs that a row states."""
    return {key: float(value) for key in COSTS if isinstance(value := row.get(key), int | float)}


def total(rows: Iterable[Mapping[str, object]]) -> dict[str, float]:
    """Return the costs of several runs together, as far as they are known."""
    found: dict[str, float] = {}
    for row in rows:
        for key, value in costs_of(row).items():
            found[key] = found.get(key, 0.0) + value
    return found


def costs_text(costs: Mapping[str, object]) -> str:
    """Write costs: `3.2 GPU-hours, price 9.60, 1.1 kWh`; "" where none is known."""
    known, said = costs_of(costs), []
    for key, unit in (("gpu_seconds", "GPU-hours"), ("core_seconds", "core-hours")):
        if key in known:
            said.append(f"{_amount(known[key] / HOUR)} {unit}")
    if "cost" in known:
        said.append(f"price {known['cost']:,.2f}")
    if "energy_joules" in known:
        said.append(f"{_amount(known['energy_joules'] / KILOWATT_HOUR)} kWh")
    return ", ".join(said)


def _amount(value: float) -> str:
    """Write 1,234.5, 12.3, 0.043 and 0."""
    return f"{value:,.1f}" if value >= 10 else f"{value:.2g}"
