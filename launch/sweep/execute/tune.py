"""Tune the sizes of a sweep: look at the ledger, decide the next runs, train them, and again; then write the recipe.

The ledger is all that is remembered, so a tuning that was interrupted goes on with the same runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from launch.run.rank_packages import need_rank_packages
from launch.scaling.tune.decide import Next, Size, Spending, next_runs, smallest_two_and_middle
from launch.scaling.tune.law import fit_setting
from launch.show.text import count, flops_text
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import load_sweep
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.cells.tuning import cells_at, sizes_of, tried, untuned, with_factor
from launch.sweep.execute.begun_by import BegunBy
from launch.sweep.execute.decide import Limits, Then, stand
from launch.sweep.execute.opened import Opened, has_gpus, locked, plan_cells
from launch.sweep.execute.place import expected_seconds, place_of
from launch.sweep.execute.progress import Watcher
from launch.sweep.execute.reconcile import drive
from launch.sweep.execute.report import ending
from launch.sweep.execute.underway import Underway
from launch.sweep.ledger import ledger
from trainer.config.recipe import Recipe
from trainer.contract.errors import EndedBadlyError, UserError
from trainer.contract.run_dir import write_atomically

RECIPE = "recipe.yaml"  # in the sweep's directory


@dataclass(frozen=True)
class TuneWish:
    """What is asked. `sizes`: places in order of FLOPs, from 1; none: the smallest two and one in the middle."""

    config: Path
    assignments: tuple[str, ...]
    runs: Path
    sizes: tuple[int, ...] = ()
    budget: float = 0.25  # of the sweep's FLOPs
    most: int = 5  # runs of a size
    failed: bool = False  # start runs again that failed
    dry_run: bool = False


@dataclass(frozen=True)
class Tuned:
    """What came out. `stopped`: what the budget left undone."""

    recipe: Recipe
    path: Path
    runs: int
    others: tuple[str, ...]
    stopped: str = ""


@dataclass(frozen=True)
class Bench:
    """A sweep that is being tuned: its chosen sizes with the settings of each, and what all its cells cost."""

    opened: Opened
    sizes: tuple[Size, ...]
    settings: tuple[dict[str, Any], ...]
    factors: tuple[float, ...]  # of the learning rate at each size without tuning
    others: tuple[str, ...]
    flops: float

    @property
    def ledger(self) -> Path:
        """The ledger of the sweep, which tuning runs join."""
        return self.opened.directory / "ledger.jsonl"

    def trials(self) -> list[list[tuple[Any, Mapping[str, Any]]]]:
        """Return the trials of each size that the ledger has, with their rows."""
        rows, opened = list(ledger.read(self.ledger)), self.opened
        each = zip(self.settings, self.factors, strict=True)
        return [tried(opened.sweep, settings, own, rows, gpu=opened.gpu) for settings, own in each]

    def tried(self) -> list[Size]:
        """Return the sizes with what has been tried by now."""
        each = zip(self.sizes, self.trials(), strict=True)
        return [replace(size, tried=tuple(trial for trial, _ in trials)) for size, trials in each]


def tune_sweep(wish: TuneWish, console: Console) -> Tuned | None:
    """Tune the learning rate of a sweep on this machine and write its recipe; None for a dry run.

    Raises UserError, and EndedBadlyError where runs failed; what has ended is in the ledger.
    """
    bench = _bench(wish)
    spending = Spending(wish.budget * bench.flops, wish.most)
    _introduce(bench, spending, console)
    if wish.dry_run:
        for line in _next_lines(bench, next_runs(bench.tried(), spending)):
            console.print(line, highlight=False)
        return None
    need_rank_packages()
    with locked(bench.opened):
        while (step := next_runs(bench.tried(), spending)).runs:
            for line in _next_lines(bench, step):
                console.print(line, highlight=False)
            _train(bench, step, wish, console)
    return _finish(bench, step, console)


def _bench(wish: TuneWish) -> Bench:
    sweep, gpu = untuned(load_sweep(wish.config, wish.assignments)), has_gpus(None)
    directory, found = wish.runs / sweep.name, sizes_of(sweep)
    begun = BegunBy(str(wish.config.resolve() if wish.config.exists() else wish.config), wish.assignments)
    whole = plan_cells(cells_of(sweep, gpu=gpu), sweep, directory, gpu=gpu)
    alone = plan_cells(cells_at(sweep, found.settings, gpu=gpu), sweep, directory, gpu=gpu)
    order = sorted(alone, key=lambda one: one.plan.flops)
    chosen = [order[k] for k in _chosen(wish, order, sweep.name)]
    return Bench(
        Opened(sweep, directory, whole, gpu, begun=begun),
        tuple(_size(one) for one in chosen),
        tuple(one.cell.settings for one in chosen),
        tuple(one.cell.config.optim.lr_factor for one in chosen),
        found.others,
        sum(one.share * one.plan.flops for one in whole if one.cell.check_of is None),
    )


def _chosen(wish: TuneWish, order: Sequence[PlannedCell], name: str) -> list[int]:
    """Return the places of the sizes to be tuned. Raises UserError where they make no law."""
    if len(order) < 2:
        raise UserError(
            f"sweep {name!r} has one size: a law of the learning rate needs two. Add sizes to 'rungs' or 'vary', or "
            "try rates at this one: vary optim.lr_factor over 0.5, 1 and 2"
        )
    if not wish.sizes:
        return smallest_two_and_middle([one.plan.flops for one in order])
    known = range(1, len(order) + 1)
    if unknown := [k for k in wish.sizes if k not in known]:
        raise UserError(f"--sizes {unknown[0]}: sweep {name!r} has sizes 1 to {len(order)}, in order of FLOPs")
    if len(set(wish.sizes)) < 2:
        raise UserError("--sizes names one size: a law of the learning rate needs two")
    return sorted({k - 1 for k in wish.sizes})


def _size(one: PlannedCell) -> Size:
    plan = one.plan
    name = f"{count(plan.parameters['body'])} parameters x {count(plan.tokens)} tokens"
    return Size(
        name, float(plan.parameters["body"]), float(plan.tokens), float(plan.tokens_per_step), plan.flops, plan.lr
    )


def _introduce(bench: Bench, spending: Spending, console: Console) -> None:
    sizes = "; ".join(size.name for size in bench.sizes)
    console.print(
        f"tuning the learning rate at {sizes}\nbudget {flops_text(spending.budget)}, "
        f"{spending.budget / bench.flops:.0%} of the sweep's {flops_text(bench.flops)}",
        highlight=False,
    )
    if bench.others:
        console.print(f"not tuned by itself, shares the recipe: {', '.join(bench.others)}", highlight=False)


def _next_lines(bench: Bench, step: Next) -> list[str]:
    named = [f"{bench.sizes[k].name}: learning rate {bench.sizes[k].own * 2**x:.3g}" for k, x in step.runs]
    return [f"next: {line}" for line in named] + ([step.stopped] if step.stopped else [])


def _train(bench: Bench, step: Next, wish: TuneWish, console: Console) -> None:
    """Train the runs of one decision. Raises EndedBadlyError where one failed, for it would be decided again."""
    opened = bench.opened
    settings = [with_factor(bench.settings[k], bench.factors[k], x) for k, x in step.runs]
    cells = plan_cells(cells_at(opened.sweep, settings, gpu=opened.gpu), opened.sweep, opened.directory, gpu=opened.gpu)
    now = replace(opened, cells=cells)
    limits = Limits(queued=False, retry=wish.failed)
    at_a_time = max(1, (opened.sweep.slots or 0) // opened.sweep.ranks)
    underway = Underway(opened.directory, cells, place_of(now, None, "", None), opened.sweep.fit.eval_set)
    decision = drive(underway, limits, Watcher(console, cells, expected_seconds(now, at_a_time), at_a_time), console)
    if decision.then is Then.REFUSE:
        raise UserError(
            f"runs of this tuning are already going on under {opened.directory}: wait for them, or end them"
        )
    if stand(decision.cells, replace(limits, retry=False)).failed:
        raise EndedBadlyError(*ending(decision, limits, now, wish.config, again="tune"))


def _finish(bench: Bench, step: Next, console: Console) -> Tuned:
    """Fit the law, write the recipe and say what it cost."""
    trials, sweep = bench.trials(), bench.opened.sweep
    rows = [row for of_size in trials for _, row in of_size]
    spent = sum(float(row["flops_exact"]) for row in rows)
    law = fit_setting(bench.tried(), sweep.name)
    recipe = Recipe(
        sweep=sweep.name, kind=str(rows[0].get("kind") or rows[0]["family"]), flops=spent, share=spent / bench.flops,
        parametrization=bench.opened.cells[0].cell.config.optim.parametrization, lr=law,
    )  # fmt: skip
    path = bench.opened.directory / RECIPE
    write_atomically(path, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    return Tuned(recipe, path, len(rows), bench.others, step.stopped)
