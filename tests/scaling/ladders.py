"""Pairs of simulated ladders for the tests of comparisons: as rungs, and as the ledgers of two sweeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from launch.scaling.compare.rungs import Arm, Rung
from tests.scaling.runs import ledger_row

E, A, GAMMA = 1.8, 60.0, 0.095
SHAPES = ((32, 2), (48, 3), (80, 4), (128, 4), (176, 6), (256, 9))


def law(flops: float) -> float:
    return E + A * flops**-GAMMA


def rungs(
    multipliers: Sequence[float], *, noise: float = 0.0, seeds: int = 1, seed: int = 0, dearer: float = 1.0
) -> list[Rung]:
    """Return rungs a factor of four apart; `dearer`: FLOPs of the variant over those of the base."""
    random = np.random.default_rng(seed)
    found = []
    for k, multiplier in enumerate(multipliers):
        flops = 1e16 * 4.0**k
        sides = [
            Arm(1e6 * 2.0**k, 2e7 * 2.0**k, cost, 10.0 * 4.0**k,
                 {(str(s), str(s)): law(worth) * float(np.exp(noise * random.standard_normal())) for s in range(seeds)})
            for cost, worth in ((flops, flops), (dearer * flops, multiplier * dearer * flops))
        ]  # fmt: skip
        found.append(Rung(*sides))
    return found


def ladder_rows(
    multiplier: float = 1.0, *, sizes: int = 4, seeds: int = 2, noise: float = 0.001, seed: int = 0,
    settings: Mapping[str, Any] | None = None, own_seeds: bool = True, **columns: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the rows of one ladder, as good as the base with so many times its compute.

    `own_seeds`: every rung has its own.
    """
    random = np.random.default_rng(seed)
    rows = []
    for k, (d_model, n_layers) in enumerate(SHAPES[:sizes]):
        body = 12 * n_layers * d_model**2
        tokens = 20 * (body + 2048 * d_model)
        for s in range(k * seeds, (k + 1) * seeds) if own_seeds else range(seeds):
            stated = {"model.size": str(body), "seed": s, **(settings or {})}
            name = "-".join(f"{key}={value}" for key, value in stated.items())
            row = ledger_row(name, d_model, n_layers, tokens, 1.0, seed=s, settings=stated, seconds=tokens / 1e4)
            row["loss"] = law(multiplier * row["flops_exact"]) * float(np.exp(noise * random.standard_normal()))
            rows.append({**row, **columns})
    return rows


def write_ledger(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as the ledger of a sweep, and return its directory."""
    folder.mkdir(parents=True)
    (folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
