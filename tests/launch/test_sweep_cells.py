"""Cells are named by what determines their result; a sweep knows what it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig, load_sweep
from trainer.contract.errors import UserError

RUN = {
    "data": {"name": "x"},
    "model": {"size": "12k", "vocab_size": 512, "context_length": 64},
    "batch": {"tokens_per_step": 1024},
    "tokens": 10240,
}


def sweep(**changes) -> SweepConfig:
    values = {"name": "s", "ranks": 2, "run": RUN, "vary": {"model.size": ["12k", "50k"]}, **changes}
    return SweepConfig.model_validate(values)


def ids(**changes) -> list[str]:
    return [cell.id for cell in cells_of(sweep(**changes))]


def test_the_grid_is_every_combination_and_single_cells_follow():
    cells = cells_of(sweep(vary={"model.size": ["12k", "50k"], "seed": [0, 1]}, cells=({"model.size": "100k"},)))
    assert [(c.config.model.size, c.config.seed) for c in cells] == [
        ("12k", 0), ("12k", 1), ("50k", 0), ("50k", 1), ("100k", 0),
    ]  # fmt: skip


def test_an_id_follows_from_what_determines_the_result_and_nothing_else():
    base = ids()
    assert ids(name="other", ranks=4) == base
    assert ids(run={**RUN, "parallel": {"zero_stage": 3}}) == base
    assert not set(ids(run={**RUN, "tokens": 20480})) & set(base)
    assert ids(vary={"model.size": ["50k", "12k"]}) == base[::-1]


def test_a_layout_check_is_a_second_run_of_its_cell():
    check = {"cell": {"model.size": "50k"}, "set": {"parallel.tensor": 2}}
    cells = cells_of(sweep(layout_checks=(check,)))
    assert cells[2].check_of == cells[1].id
    assert cells[2].config.parallel.tensor == 2
    assert cells[2].config.result_hash() == cells[1].config.result_hash()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": {}, "cells": ()}, "has no cells"),
        ({"vary": {"model.sizes": ["1M"]}}, "unknown key 'model.sizes'"),
        ({"vary": {"model.size": ["12k"], "name": ["a", "b"]}}, "two cells are the same run"),
        ({"vary": {"model.size": ["3k", "6k"]}}, "model.size 3k and 6k come to one model, 32 wide with"),
        ({"layout_checks": ({"cell": {"model.size": "1M"}, "set": {"parallel.tensor": 2}},)}, "no cell of the sweep"),
        ({"layout_checks": ({"cell": {"model.size": "50k"}, "set": {"seed": 2}},)}, "changes what is computed"),
    ],
)
def test_a_bad_sweep_is_refused(changes: dict, message: str):
    with pytest.raises(UserError) as error:
        cells_of(sweep(**changes))
    assert message in str(error.value)


def test_a_sweep_file_takes_its_name_and_overrides(tmp_path: Path):
    path = tmp_path / "ladder.yaml"
    path.write_text(yaml.safe_dump({"ranks": 1, "run": RUN, "vary": {"model.size": ["12k"]}}))
    loaded = load_sweep(path, ("tokens=2048", "optim.lr=0.5"))
    assert loaded.name == "ladder"
    assert cells_of(loaded)[0].config.tokens == 2048
    assert cells_of(loaded)[0].config.optim.lr == 0.5
    with pytest.raises(UserError, match="has no effect"):
        load_sweep(path, ("model.size=1M",))
    with pytest.raises(UserError, match="did you mean 'ranks'"):
        path.write_text("rank: 2\nrun: tiny\n")
        load_sweep(path)
