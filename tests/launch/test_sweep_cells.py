"""Cells are named by what determines their result; a sweep knows what it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig, load_sweep
from launch.sweep.cells.former import former_names, refuse_former
from tests.checkpoints import small_manifest, write
from trainer.contract.errors import UserError
from trainer.plan.identity import result_hash

RUN = {
    "data": {"name": "x"},
    "model": {"size": "12k", "vocab_size": 512, "context_length": 64},
    "batch": {"tokens_per_step": 1024},
    "tokens": 10240,
}


# As the version before printed them.
FORMER = ["size=12k-5031d207", "size=50k-493018d1"]


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


def test_changes_are_made_one_at_a_time_to_every_combination():
    post, rate = {"model.norm_placement": "post"}, {"optim.lr_factor": 2.0}
    cells = cells_of(sweep(vary={"seed": [0, 1]}, changes=({}, post, rate)))
    assert [c.settings for c in cells] == [
        {"seed": 0}, {"seed": 1}, {"seed": 0, **post}, {"seed": 1, **post}, {"seed": 0, **rate}, {"seed": 1, **rate},
    ]  # fmt: skip
    assert [c.config.model.norm_placement for c in cells] == ["pre", "pre", "post", "post", "pre", "pre"]
    assert len(cells_of(sweep(vary={}, changes=({}, post)))) == 2


def test_mixers_vary_like_any_setting():
    cells = cells_of(sweep(vary={"model.mixer": ["attention", "lstm"], "model.size": ["12k", "50k"]}))
    assert [c.config.model.kind for c in cells] == ["transformer", "transformer", "lstm", "lstm"]
    assert cells[0].id.startswith("mixer=attention-size=12k-")


def test_an_id_follows_from_what_determines_the_result_and_nothing_else():
    base = ids()
    assert ids(name="other", ranks=4) == base
    assert ids(run={**RUN, "parallel": {"zero_stage": 3}}) == base
    assert not set(ids(run={**RUN, "tokens": 20480})) & set(base)
    assert ids(vary={"model.size": ["50k", "12k"]}) == base[::-1]


def test_sweeps_that_begin_with_other_weights_have_other_cells(tmp_path: Path):
    points = []
    for name in ("a", "b"):
        state = {"identity": {"tokenizer": name}, "data": None}
        points.append(write(tmp_path / name / "checkpoints", small_manifest(state=state)))
    starts = [{"load": "warm_start", "source": str(tmp_path / name)} for name in ("a", "b")]
    one, other = (ids(run={**RUN, "checkpoint": start}) for start in starts)
    assert not {*one, *ids()} & set(other) and not set(one) & set(ids())
    (first, _) = cells_of(sweep(run={**RUN, "checkpoint": starts[0]}))
    assert first.config.checkpoint.source == str(points[0]), "a later checkpoint of the source changes nothing"
    with pytest.raises(UserError, match="has no checkpoint whose manifest can be read"):
        ids(run={**RUN, "checkpoint": {"load": "warm_start", "source": str(tmp_path / "gone")}})


def test_what_guard_and_data_order_do_enters_a_name():
    base = set(ids())
    assert not base & set(ids(run={**RUN, "guard": {"non_finite": "skip"}}))
    assert not base & set(ids(run={**RUN, "skip_steps": ["3:5"]}))
    on_gpu = {cell.id for cell in cells_of(sweep(), gpu=True)}
    assert not base & on_gpu and on_gpu == set(ids(run={**RUN, "precision": "bf16"}))


def test_cells_under_their_former_names_are_not_trained_again_unawares(tmp_path: Path):
    cells = cells_of(sweep())
    assert [cell.former for cell in cells] == FORMER
    known = {FORMER[0]: {"status": "done"}, FORMER[1]: {"status": "failed"}}
    assert former_names(cells, known) == {FORMER[0]: cells[0].id}
    with pytest.raises(UserError, match=f"1 of the sweep's cells under names of an earlier Escala .{FORMER[0]}, now"):
        refuse_former(cells, known, tmp_path / "ledger.jsonl")
    refuse_former(cells, {**known, cells[0].id: {"status": "done"}}, tmp_path / "ledger.jsonl")


def test_a_layout_check_is_a_second_run_of_its_cell():
    check = {"cell": {"model.size": "50k"}, "set": {"parallel.tensor": 2}}
    cells = cells_of(sweep(layout_checks=(check,)))
    assert cells[2].check_of == cells[1].id
    assert cells[2].config.parallel.tensor == 2
    assert result_hash(cells[2].config, gpu=False) == result_hash(cells[1].config, gpu=False)


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
