"""Tune the sizes of a sweep: look at the ledger, decide the next runs, train them, and again; then write the recipe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from rich.console import Console

from launch.cluster.config import ClusterConfig, load_cluster
from launch.cluster.warnings import warn
from launch.run.rank_packages import need_rank_packages
from launch.scaling.tune.decide import Size, Spending, smallest_two_and_middle
from launch.scaling.tune.knobs import WORDS, Knob
from launch.scaling.tune.law import fit_setting, what_lacks
from launch.show.text import count, flops_text
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import load_sweep
from launch.sweep.cells.knobs import Start, check_knobs
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.cells.tuning import cells_at, sizes_of, untuned
from launch.sweep.execute.begun_by import BegunBy
from launch.sweep.execute.bench import Bench, Stage, Step
from launch.sweep.execute.decide import Decision, Limits, Then, stand
from launch.sweep.execute.opened import Opened, has_gpus, locked, plan_cells
from launch.sweep.execute.place import at_a_time, check_shape, expected_seconds, place_of
from launch.sweep.execute.progress import Watcher
from launch.sweep.execute.reconcile import drive, reconcile
from launch.sweep.execute.report import ending, tell
from launch.sweep.execute.underway import Underway
from trainer.config.recipe import Recipe, RecipeLaw
from trainer.contract.errors import EndedBadlyError, UserError
from trainer.contract.run_dir import write_atomically

RECIPE = "recipe.yaml"  # in the sweep's directory
ASK_EVERY = 30.0  # seconds between two looks at a queue


@dataclass(frozen=True)
class TuneWish:
    """What is asked. `sizes`: places in order of FLOPs, from 1; none: the smallest two and one in the middle."""

    config: Path
    assignments: tuple[str, ...]
    runs: Path
    sizes: tuple[int, ...] = ()
    budget: float = 0.25  # of the sweep's FLOPs
    most: int = 5  # runs of a size, for each knob
    failed: bool = False  # start runs again that failed
    dry_run: bool = False
    knobs: tuple[Knob, ...] = ("lr",)
    cluster: str | None = None  # None: this machine


@dataclass(frozen=True)
class Tuned:
    """What came out. `stopped`: what the budget left undone; `no_law`: knobs of which too few sizes are tuned."""

    recipe: Recipe
    path: Path
    runs: int
    others: tuple[str, ...]
    stopped: tuple[str, ...] = ()
    no_law: tuple[str, ...] = ()


def tune_sweep(wish: TuneWish, console: Console) -> Tuned | None:
    """Tune the knobs of a sweep, here or on a cluster, and write its recipe; None for a dry run.

    Raises UserError, and EndedBadlyError where runs failed; what has ended is in the ledger.
    """
    cluster = None if wish.cluster is None else load_cluster(wish.cluster)
    bench = _bench(wish, cluster)
    if cluster is not None:
        check_shape(bench.opened.sweep, cluster, wish.cluster or "")
        warn(cluster.job(bench.opened.sweep.name, (), bench.opened.directory), cluster.backend)
    _introduce(bench, console)
    if wish.dry_run:
        for line in bench.lines(bench.next_step()):
            console.print(line, highlight=False)
        return None
    if cluster is None:
        need_rank_packages()
    with locked(bench.opened):
        while (step := bench.next_step()).runs:
            for line in bench.lines(step):
                console.print(line, highlight=False)
            _train(bench, step, wish, cluster, console)
    return _finish(bench, step)


def _bench(wish: TuneWish, cluster: ClusterConfig | None) -> Bench:
    sweep, gpu = untuned(load_sweep(wish.config, wish.assignments)), has_gpus(cluster)
    runs = wish.runs if cluster is None else wish.runs.resolve()
    directory, found = runs / sweep.name, sizes_of(sweep, wish.knobs)
    begun = BegunBy(str(wish.config.resolve() if wish.config.exists() else wish.config), wish.assignments)
    sizes = cells_at(sweep, found.settings, gpu=gpu)
    _check_sizes(wish, len(sizes), sweep.name)
    for cell in sizes:
        check_knobs(wish.knobs, cell.config)
    whole = plan_cells(cells_of(sweep, gpu=gpu), sweep, directory, gpu=gpu)
    order = sorted(plan_cells(sizes, sweep, directory, gpu=gpu), key=lambda one: one.plan.flops)
    chosen = [order[k] for k in _chosen(wish, [one.plan.flops for one in order])]
    flops = sum(one.share * one.plan.flops for one in whole if one.cell.check_of is None)
    return Bench(
        Opened(sweep, directory, whole, gpu, begun=begun),
        tuple(Start.of(one) for one in chosen),
        tuple(_size(one) for one in chosen),
        found.others,
        flops,
        wish.knobs,
        Spending(wish.budget * flops, wish.most),
    )


def _check_sizes(wish: TuneWish, number: int, name: str) -> None:
    """Raise UserError where the sizes make no law, before data are prepared for them."""
    if number < 2:
        raise UserError(
            f"sweep {name!r} has one size: a law of the learning rate needs two. Add sizes to 'rungs' or 'vary', or "
            "try rates at this one: vary optim.lr_factor over 0.5, 1 and 2"
        )
    if unknown := [k for k in wish.sizes if not 1 <= k <= number]:
        raise UserError(f"--sizes {unknown[0]}: sweep {name!r} has sizes 1 to {number}, in order of FLOPs")
    if len(set(wish.sizes)) == 1:
        raise UserError("--sizes names one size: a law of the learning rate needs two")


def _chosen(wish: TuneWish, flops: Sequence[float]) -> list[int]:
    """Return the places of the sizes to be tuned, in order of FLOPs."""
    return sorted({k - 1 for k in wish.sizes}) if wish.sizes else smallest_two_and_middle(flops)


def _size(one: PlannedCell) -> Size:
    plan = one.plan
    name = f"{count(plan.parameters['body'])} parameters x {count(plan.tokens)} tokens"
    return Size(
        name, float(plan.parameters["body"]), float(plan.tokens), float(plan.tokens_per_step), plan.flops, plan.lr
    )


def _introduce(bench: Bench, console: Console) -> None:
    sizes, budget = "; ".join(size.name for size in bench.sizes), bench.spending.budget
    knobs = ", then ".join(WORDS[knob] for knob in bench.knobs)
    console.print(
        f"tuning {'the learning rate' if bench.knobs == ('lr',) else knobs} at {sizes}\nbudget {flops_text(budget)}, "
        f"{budget / bench.flops:.0%} of the sweep's {flops_text(bench.flops)}",
        highlight=False,
    )
    if bench.others:
        console.print(f"not tuned by itself, shares the recipe: {', '.join(bench.others)}", highlight=False)


def _train(bench: Bench, step: Step, wish: TuneWish, cluster: ClusterConfig | None, console: Console) -> None:
    """Train the runs of one decision. Raises EndedBadlyError where one failed, for it would be decided again."""
    opened = bench.opened
    cells = plan_cells(bench.cells(step), opened.sweep, opened.directory, gpu=opened.gpu)
    now = replace(opened, cells=cells)
    place = place_of(now, cluster, wish.cluster or "", None)
    limits = Limits(queued=place.scheduler is not None, retry=wish.failed)
    underway = Underway(opened.directory, cells, place, opened.sweep.fit.eval_set)
    if limits.queued:
        decision = _queue(underway, limits, now, console)
    else:
        watcher = Watcher(console, cells, expected_seconds(now, cluster), at_a_time(now, cluster))
        decision = drive(underway, limits, watcher, console)
    if decision.then is Then.REFUSE:
        raise UserError(
            f"runs of this tuning are already going on under {opened.directory}: wait for them, or end them"
        )
    if stand(decision.cells, replace(limits, retry=False)).failed:
        raise EndedBadlyError(*ending(decision, limits, now, wish.config, again="tune"))


def _queue(underway: Underway, limits: Limits, now: Opened, console: Console) -> Decision:
    """Send the runs of one decision to a queue, and look until all have ended: the next decision depends on them."""
    told: list[int] = []

    def show(decision: Decision) -> None:
        stands = stand(decision.cells, limits)
        if told != (standing := [len(stands.done), len(stands.busy), len(stands.failed), len(stands.diverged)]):
            told[:] = standing
            tell(decision, now, console)

    while (decision := reconcile(underway, limits, show)).then is Then.LEAVE:
        if decision.start:
            console.print("waiting for the queue; after an interrupt the jobs go on, and the same command does too")
        limits = replace(limits, retry=False)
        time.sleep(ASK_EVERY)
        underway.jobs = None  # jobs of an earlier process are asked about too
    return decision


def _finish(bench: Bench, step: Step) -> Tuned:
    """Fit the laws, write the recipe and say what it cost."""
    stages, sweep = bench.stages(), bench.opened.sweep
    rows = {row["cell"]: row for stage in stages for entry in stage.entries for row in entry.rows}
    spent = sum(float(row["flops_exact"]) for row in rows.values())
    laws, no_law = _laws(bench, stages)
    first = next(iter(rows.values()))
    recipe = Recipe(
        sweep=sweep.name, kind=str(first.get("kind") or first["family"]), flops=spent, share=spent / bench.flops,
        parametrization=bench.opened.cells[0].cell.config.optim.parametrization, lr=laws["lr"],
        batch=laws.get("batch"), weight_decay=laws.get("weight_decay"),
    )  # fmt: skip
    path = bench.opened.directory / RECIPE
    write_atomically(path, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    return Tuned(recipe, path, len(rows), bench.others, step.stopped, tuple(no_law))


def _laws(bench: Bench, stages: Sequence[Stage]) -> tuple[dict[Knob, RecipeLaw], list[str]]:
    """Return the law of each knob, and why others have none. Raises UserError where the learning rate has none."""
    name, sizes = bench.opened.sweep.name, {stage.knob: stage.sizes for stage in stages}
    later = [(knob, what_lacks(of)) for knob, of in sizes.items() if knob != "lr"]
    no_law = [f"no law of {WORDS[knob]}: {why}" for knob, why in later if why]
    laws: dict[Knob, RecipeLaw] = {}
    if "batch" in sizes and not what_lacks(sizes["batch"]):
        laws["batch"] = fit_setting(sizes["batch"], name, ("N", "D"))
        batches = _best_batches(bench, next(stage for stage in stages if stage.knob == "batch"))
        moved = [_at_batch(bench, k, size, batches) for k, size in enumerate(sizes["lr"])]
        laws["lr"] = fit_setting(moved, name, ("N", "D"), {"batch": bench.starts[0].rate_power})
    else:
        laws["lr"] = fit_setting(sizes["lr"], name)
    if "weight_decay" in sizes and not what_lacks(sizes["weight_decay"]):
        laws["weight_decay"] = fit_setting(
            sizes["weight_decay"], name, ("N", "D") if "batch" in laws else ("N", "D", "batch")
        )
    return laws, no_law


def _best_batches(bench: Bench, stage: Stage) -> dict[int, float]:
    """Return the best batch of each size, by its place, where it is tuned."""
    found = {}
    for entry in stage.entries:
        best = entry.size.found()
        if best is not None and not best.problem:
            found[entry.place] = bench.starts[entry.place].own["batch"] * 2**best.x
    return found


def _at_batch(bench: Bench, place: int, size: Size, batches: Mapping[int, float]) -> Size:
    """Return a size with its learning rates as they are at its best batch, by the rule."""
    if place not in batches:
        return size
    batch = batches[place]
    return replace(size, own=size.own * bench.starts[place].rate_ratio(batch), batch=batch)
