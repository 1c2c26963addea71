"""What a sweep file says: the run that all cells share, what varies, and what is checked.

name: quickstart
ranks: 2
run: {data: quickstart, model: {...}, batch: {...}, tokens: 1M}      # or a name in configs/run
vary: {model.size: [12k, 25k, 50k]}                                  # every combination is a cell
rungs: [{model.size: 12k, tokens: 300k}, {model.size: 25k, tokens: 500k}]   # a ladder: each with every combination
seeds: 3                                                             # so many of each, other ones at every rung
changes: [{}, {model.norm_placement: post}]                          # each combination as it is, and with each change
gate: {rungs: [{model.size: 50k, tokens: 1M}]}                       # then these, for the changes that pass
cells: [{model.size: 12k, seed: 1}]                                  # and these, one by one
layout_checks: [{cell: {model.size: 50k}, set: {parallel.tensor: 2}}]
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from trainer.config.base import Section, parse_section
from trainer.config.load import config_file, read_yaml, set_values
from trainer.config.names import Name
from trainer.contract.errors import UserError


class LayoutCheck(Section):
    """One cell that is trained a second time with other settings of its layout; the two curves must agree."""

    cell: dict[str, Any] = Field(description="settings that name one cell")
    set: dict[str, Any] = Field(description="settings of the second run, such as parallel.tensor: 2")
    tolerance: float = Field(1e-3, gt=0, description="largest difference of the losses that counts as agreement, nats")


class FitConfig(Section):
    """What of the sweep's points becomes a law."""

    eval_set: str = Field("held_out", description="the evaluated set that laws are fitted to")


class Seeds(Section):
    """Seeds of the initial values and of the data order, crossed, so that their noise can be told apart."""

    init: int = Field(2, gt=0, description="seeds of initial values and dropout")
    order: int = Field(2, gt=0, description="seeds of the data order")


class Gate(Section):
    """The second stage of a sweep of changes: larger rungs for the base, and for each change that passed the first."""

    rungs: tuple[dict[str, Any], ...] = Field(min_length=1, description="as the sweep's own, but larger")
    passes: Literal["unless rejected", "promoted"] = Field(
        "unless rejected", description="which changes go on; the first stage seldom tells enough to promote"
    )
    worth: float = Field(1.0, ge=1, description="compute multiplier below which a change is rejected")
    asymptote: float | None = Field(None, gt=0, description="loss that no compute goes below, nats; default: free")


class SweepConfig(Section):
    """One sweep."""

    name: Name = Field(description="default: the name of the file")
    ranks: int = Field(1, gt=0, description="ranks of each cell")
    slots: int | None = Field(None, gt=0, description="ranks that run at a time on this machine; default: ranks")
    run: dict[str, Any] | str = Field(description="what all cells share: a run, or its name in configs/run")
    vary: dict[str, list[Any]] = Field({}, description="setting -> values; the cells are all combinations")
    rungs: tuple[dict[str, Any], ...] = Field(
        (),
        description="settings that go together, such as a size and its tokens; each is trained with every combination",
    )
    seeds: Annotated[int, Field(gt=0)] | Seeds = Field(
        1, description="of every cell, other ones at each rung; {init: n, order: m} for every pair of the two"
    )
    changes: tuple[dict[str, Any], ...] = Field(
        (), description="every combination is trained with each of these, one at a time; {} leaves it as it is"
    )
    cells: tuple[dict[str, Any], ...] = Field((), description="further cells, one by one")
    trunks: bool = Field(False, description="cells that differ in length alone branch off the longest one (wsd only)")
    gate: Gate | None = Field(None, description="a second stage for what the comparison of the changes lets pass")
    layout_checks: tuple[LayoutCheck, ...] = ()
    fit: FitConfig = FitConfig()


def load_sweep(path: Path, assignments: tuple[str, ...] | list[str] = ()) -> SweepConfig:
    """Read a sweep from a file, or by its name in configs/sweep. `--set` goes into the shared run. Raises UserError."""
    path = path if path.exists() else config_file("sweep", str(path))
    values = read_yaml(path)
    values.setdefault("name", path.stem)
    sweep = parse_section(SweepConfig, values, str(path))
    if not assignments:
        return sweep
    for assignment in assignments:
        key = assignment.partition("=")[0].strip()
        if key in sweep.vary:
            raise UserError(
                f"--set {key} has no effect: the sweep varies it over {sweep.vary[key]}; edit {path} instead"
            )
    shared = sweep.run if isinstance(sweep.run, dict) else {"base": sweep.run}
    return sweep.model_copy(update={"run": set_values(shared, assignments)})
