"""What a sweep says before and while it runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from launch.show.plan_table import sweep_table
from launch.sweep.execute.progress import Watcher, spread_over
from tests.launch.test_sweep_run import cells, drive, finish, planned
from trainer.plan.plan import make_plan


def told(directory: Path) -> str:
    """Run the sweep of three cells to its end and return what was printed."""
    text = io.StringIO()
    console = Console(file=text, width=200)
    with Watcher(console, planned(directory, cells()), {}) as watcher:
        drive(directory, cells(), lambda spec, _: finish(spec), lambda decision: watcher.update(decision.cells))
    return text.getvalue()


def test_a_cell_that_is_done_says_its_validation_loss_and_is_not_told_again_by_the_next_sweep(tmp_path: Path):
    first = told(tmp_path)
    assert first.count("done validation loss 2.0000, perplexity 7.39") == 3
    assert "done" not in told(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "at_a_time", "expected"),
    [([100.0], 2, 100.0), ([10.0, 10.0, 10.0, 10.0], 2, 20.0), ([50.0, 10.0, 10.0], 4, 50.0), ([], 2, 0.0)],
)
def test_runs_side_by_side_take_no_less_than_the_longest(seconds, at_a_time, expected):
    assert spread_over(seconds, at_a_time) == expected


def test_what_is_the_same_of_every_cell_is_said_once(tmp_path: Path):
    plans = {cell.id: make_plan(cell.config, world=2) for cell in cells()}
    table = sweep_table(plans, {}, 200)
    names = [column.header for column in table.columns]
    assert "layout" not in names and "sequences" not in names and {"cell", "body", "FLOPs", "steps"} <= set(names)
    assert "layout d2 t1 s1 zero" in str(table.caption)
    alone = sweep_table(dict(list(plans.items())[:1]), {}, 200)
    assert "layout" in [column.header for column in alone.columns]
    assert alone.caption is None
