"""A design as a sweep file, and what its cells are as runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from launch.show.text import count
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import load_sweep
from launch.sweep.design.counting import Counting
from launch.sweep.design.design import COOLDOWN, Cell
from launch.sweep.design.pending import add_cell
from trainer.config.model import ModelConfig
from trainer.contract.run_dir import write_atomically
from trainer.plan.counting import count_parameters
from trainer.plan.length import total_steps

WARMUP = 0.1  # of the shortest run: trunks warm up alike, whatever their length
FEWEST_STEPS = 20  # of a cell: below that it has hardly left its warm-up


def write_sweep(out: Path, run: str, slots: int, cells: Sequence[Cell], counting: Counting) -> None:
    """Write cells as a sweep file. Sizes name models of the ladder by their bodies, tokens are whole thousands."""
    entries = [_settings(c, counting) for c in cells]
    shared: dict[str, Any] = {"run": run}
    if any(c.trunk for c in cells):
        warmup = max(1000, round(WARMUP * min(e["tokens"] for e in entries) / 1000) * 1000)
        schedule = {"kind": "wsd", "warmup": f"{warmup} tokens", "decay": f"{COOLDOWN:.0%}"}
        shared = {"run": {"base": run, "schedule": schedule}, "trunks": True}
    values = {"name": out.stem, "slots": slots, **shared, "cells": entries}
    write_atomically(out, yaml.safe_dump(values, sort_keys=False))


def add_to_sweep(path: Path, cells: Sequence[Cell], counting: Counting) -> None:
    """Add cells to a sweep file that exists: their runs then come into the ledger of those that it has."""
    for cell in cells:
        add_cell(path, _settings(cell, counting))


def _settings(cell: Cell, counting: Counting) -> dict[str, Any]:
    return {"model.size": counting.size(cell.N), "tokens": max(1000, round(cell.D / 1000) * 1000)}


def describe(path: Path) -> list[str]:
    """Say what the cells of a written design are as runs, what is wrong with them, and how to train them."""
    configs = [cell.config for cell in cells_of(load_sweep(path))]
    steps, batch = [total_steps(c) for c in configs], configs[0].batch.tokens_per_step
    sizes = sorted({_body(c.model) for c in configs})
    lines = [
        f"{len(configs)} cells in {path}: {_sizes_text(sizes)} parameters without "
        f"embeddings, {min(steps)} to {max(steps)} steps of {batch} tokens"
    ]
    short = sum(1 for number in steps if number < FEWEST_STEPS)
    if short:
        lines.append(
            f"warning: {short} {'cell has' if short == 1 else 'cells have'} fewer than {FEWEST_STEPS} steps, too few "
            "for any law: take a larger budget, or fewer tokens a step "
            f"(in {path} 'run: {{base: NAME, batch: {{tokens_per_step: {batch // 8}}}}}')"
        )
    return [*lines, f"next: escala sweep run {path}"]


def _body(model: ModelConfig) -> int:
    return count_parameters(model.with_any_vocabulary()).body


def _sizes_text(sizes: list[int]) -> str:
    if len(sizes) == 1:
        return f"one size of {count(sizes[0])}"
    return f"{len(sizes)} sizes from {count(sizes[0])} to {count(sizes[-1])}"
