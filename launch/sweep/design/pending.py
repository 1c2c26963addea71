"""What a sweep has still to run: its cells without a result in the ledger, and how to give it one more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.run.data_preparation import resolve_prepared
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import load_sweep
from launch.sweep.execute.opened import cells_in
from launch.sweep.ledger import ledger
from trainer.config.load import read_yaml
from trainer.config.run import RunConfig
from trainer.config.yaml_text import parse_yaml
from trainer.contract.errors import UserError
from trainer.contract.run_dir import write_atomically
from trainer.plan.plan import make_plan


@dataclass(frozen=True)
class Pending:
    """A cell that has not run: its name, its configuration with the vocabulary of its data, and its tokens."""

    name: str
    config: RunConfig
    tokens: int


def pending_cells(path: Path, runs: Path) -> list[Pending]:
    """Return the cells of a sweep file of which its ledger under `runs` knows no end.

    Raises UserError where the data of one are not prepared, for its vocabulary is not known then. Reads only.
    """
    sweep = load_sweep(path)
    known = ledger.latest(runs / sweep.name / "ledger.jsonl")
    have = {cell for cell, row in known.items() if row.get("status") != "failed"}
    found = []
    for cell in cells_in(sweep, runs / sweep.name):
        if cell.check_of is None and cell.id not in have:
            config, manifest = resolve_prepared(cell.config)
            plan = make_plan(config, world=sweep.ranks, train_tokens=manifest.tokens("train"))
            found.append(Pending(cell.id, config, plan.tokens))
    return found


def first_run(path: Path) -> RunConfig:
    """Return the configuration of a sweep's first cell. Its data need not be prepared."""
    return cells_of(load_sweep(path))[0].config


def shared_run(path: Path) -> RunConfig:
    """Return the configuration of a sweep's first cell, with the vocabulary of its data, as `pending_cells` does."""
    return resolve_prepared(first_run(path))[0]


def add_cell(path: Path, settings: dict[str, Any]) -> None:
    """Write one more cell at the end of a sweep file and leave the rest of its text as it is.

    Raises `UserError`, with the line to add by hand, where `cells` is not the last list of the file.
    """
    before = read_yaml(path)
    cells = list(before.get("cells") or [])
    if settings in cells:
        return
    line = "- " + yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=1000).strip()
    old = path.read_text(encoding="utf-8").rstrip("\n") + "\n"
    block = old.partition("\ncells:")[2]
    indent = (re.search(r"^( *)- ", block, re.MULTILINE) or [""] * 2)[1]
    text = old + ("" if "cells" in before else "cells:\n") + indent + line + "\n"
    if _parsed(text) != {**before, "cells": [*cells, settings]}:
        raise UserError(f"{path}: add this cell by hand under 'cells':\n  {line}")
    write_atomically(path, text)


def _parsed(text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return None
