"""The story of a sweep: data, plan, runs, ledger, law, report. Each step is done once and kept.

`run`, `submit` and `resume` differ in where the cells go and in what is printed; `reconcile` does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from launch.cluster.backends import is_driven
from launch.cluster.config import ClusterConfig, load_cluster, open_backend
from launch.cluster.warnings import warn
from launch.run.data_preparation import is_prepared
from launch.run.rank_packages import need_rank_packages
from launch.run.runs_root import runs_flag
from launch.scaling.report.write import ReportPaths
from launch.scaling.table.counting import DEFAULT_N
from launch.show.plan_table import sweep_table
from launch.show.text import count
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig, load_sweep
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.execute.act import array_of, recorded_cluster
from launch.sweep.execute.begun_by import RECORD
from launch.sweep.execute.decide import Decision, Limits, Then, decide, stand
from launch.sweep.execute.observe import observe
from launch.sweep.execute.opened import Opened, has_gpus, locked, open_sweep
from launch.sweep.execute.place import at_a_time, check_shape, expected_seconds, place_of
from launch.sweep.execute.progress import Watcher, spread_over
from launch.sweep.execute.reconcile import drive, reconcile
from launch.sweep.execute.report import ending, report, tell
from launch.sweep.execute.underway import Underway
from trainer.contract.durations import duration
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_DONE


@dataclass(frozen=True)
class Wish:
    """What is asked of a sweep."""

    config: Path
    assignments: tuple[str, ...]
    runs: Path
    failed: bool = False  # start cells again that failed or diverged before
    at_most: int | None = None  # cells of the array at a time
    dry_run: bool = False
    n_convention: str = DEFAULT_N

    @property
    def words(self) -> str:
        """Return the arguments that name this sweep on a command line."""
        return f"{self.config}{runs_flag(self.runs)}"


@dataclass(frozen=True)
class Result:
    """What one call did with a sweep. `failure` says which cells ended badly, why, and how to start them again."""

    started: list[PlannedCell] = field(default_factory=list)  # trained here, or sent to a cluster
    report: ReportPaths | None = None
    failure: str = ""
    exit_code: int = EXIT_DONE

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        paths = self.report and {"html": str(self.report.html), "markdown": str(self.report.markdown)}
        return {"started": [one.id for one in self.started], "report": paths}


def run_sweep(wish: Wish, console: Console) -> Result:
    """Train every cell that is missing on this machine, and print what came out. Raises UserError."""
    if wish.at_most is not None:
        raise UserError(
            "--at-most has an effect on arrays of Slurm and Kubernetes only; this sweep ran on this machine"
        )
    if not wish.dry_run:
        need_rank_packages()
    return _go_on(wish, None, "", console)


def submit_sweep(wish: Wish, name: str, console: Console) -> Result:
    """Send every cell that is missing to a cluster as one array. Raises UserError, before anything is sent.

    Machines that are driven from here (SSH, this one) run the cells until all have ended.
    """
    cluster, sweep = load_cluster(name), load_sweep(wish.config, wish.assignments)
    wish = replace(wish, runs=wish.runs.resolve())
    check_shape(sweep, cluster, name)
    if is_driven(cluster.backend) and wish.at_most is not None:
        raise UserError(f"--at-most has no effect on {cluster.backend}: its nodes and ranks_per_node are the limit")
    warn(cluster.job(sweep.name, (), wish.runs), cluster.backend)
    if not wish.dry_run:
        rehearse(sweep, wish.runs / sweep.name, cluster, wish.at_most)
    return _go_on(wish, cluster, name, console)


def resume_sweep(wish: Wish, console: Console) -> Result:
    """Go on with a sweep where it was last: take in what has ended, start what is missing, report when all is done."""
    sweep = load_sweep(wish.config, wish.assignments)
    directory = wish.runs / sweep.name
    if not (directory / RECORD).exists():
        raise UserError(
            f"sweep {sweep.name!r} has not been started under {wish.runs}: use 'escala sweep run' or 'submit'"
        )
    name = recorded_cluster(directory)
    return run_sweep(wish, console) if name is None else submit_sweep(wish, name, console)


def rehearse(sweep: SweepConfig, directory: Path, cluster: ClusterConfig, at_most: int | None) -> None:
    """Have the cluster judge the first jobs of a sweep whose data are still to be prepared. Raises UserError.

    Where the data are there, submitting says the same at once.
    """
    cells = cells_of(sweep, gpu=has_gpus(cluster))
    if all(is_prepared(data) for data in {c.config.data.directory: c.config.data for c in cells}.values()):
        return
    array = array_of(directory, [cell.id for cell in cells if cell.branch is None], cluster, at_most)
    one = cluster.job(sweep.name, array.command, directory)
    open_backend(cluster).rehearse(one if is_driven(cluster.backend) else array)


def _go_on(wish: Wish, cluster: ClusterConfig | None, name: str, console: Console) -> Result:
    """Do what is missing of a sweep, here or on a cluster: where it has a gate, what that lets pass follows."""
    opened = open_sweep(wish.config, wish.assignments, wish.runs, gpu=has_gpus(cluster))
    result = _stage(opened, wish, cluster, name, console)
    if result.report is None or opened.gate or opened.sweep.gate is None:
        return result
    further = open_sweep(wish.config, wish.assignments, wish.runs, gpu=has_gpus(cluster))
    if len(further.cells) == len(opened.cells):
        console.print("\n".join(further.gate), highlight=False)
        return result
    second = _stage(further, wish, cluster, name, console)
    return replace(second, started=[*result.started, *second.started])


def _stage(opened: Opened, wish: Wish, cluster: ClusterConfig | None, name: str, console: Console) -> Result:
    """Do what is missing of the cells that are known by now, and print what came out."""
    for line in opened.gate:
        console.print(line, highlight=False)
    place = place_of(opened, cluster, name, wish.at_most)
    queued = place.scheduler is not None
    limits = Limits(queued, wish.failed)
    side_by_side = at_a_time(opened, cluster)
    expected = expected_seconds(opened, cluster)
    if wish.dry_run or not queued:
        plan = decide(observe(Underway(opened.directory, opened.cells, place)), limits)
        console.print(sweep_table(opened.plans, expected, console.width))
        console.print(_total_text(opened, stand(plan.cells, limits).due, expected, side_by_side), highlight=False)
        if saved := branches_text(opened.cells):
            console.print(saved, highlight=False)
        for line in recipe_lines(opened.cells):
            console.print(line, highlight=False, soft_wrap=True)
        console.print()
        if wish.dry_run:
            if queued and plan.start:
                array = array_of(opened.directory, plan.start, place.cluster, wish.at_most)
                print(place.backend.render(array), end="")
            return Result()
    if cluster is None:
        need_rank_packages({one.cell.config.parallel.engine for one in opened.cells})
    with locked(opened):
        underway = Underway(opened.directory, opened.cells, place, opened.sweep.fit.eval_set)
        if queued:
            decision = reconcile(underway, limits, lambda now: tell(now, opened, console))
            _tell_sent(underway, decision, wish, console)
        else:
            decision = drive(underway, limits, Watcher(console, opened.cells, expected, side_by_side), console)
        if decision.then is Then.REFUSE:
            where = recorded_cluster(opened.directory) or "a cluster"
            raise UserError(
                f"{len(stand(decision.cells, limits).busy)} cells of this sweep are queued or running on {where}: wait "
                f"for them ('escala sweep status {wish.words}'), or end them with 'escala cancel'"
            )
        if waiting := stand(decision.cells, limits).waiting:
            console.print(f"{len(waiting)} cells wait for their trunk: 'resume' starts them when it is there")
        paths = report(opened, console, wish.n_convention) if decision.then is Then.FINISH else None
    return Result(underway.started, paths, *ending(decision, limits, opened, wish.config))


def _tell_sent(underway: Underway, decision: Decision, wish: Wish, console: Console) -> None:
    if decision.start:
        where, job = underway.place.cluster.backend, underway.ids[decision.start[0]]
        console.print(f"submitted {len(decision.start)} cells as {where} job {job}", soft_wrap=True)
    if decision.then is Then.LEAVE:
        lines = f"  escala sweep status {wish.words}\n  escala sweep resume {wish.words}   when they have ended"
        console.print(lines, soft_wrap=True)


def _total_text(opened: Opened, due: Sequence[str], expected: dict[str, float], side_by_side: int) -> str:
    """Say how many runs there are, how many will be trained, and how long those will take."""
    ranks = opened.sweep.ranks
    text = f"{len(opened.cells)} runs of {ranks} {'rank' if ranks == 1 else 'ranks'}"
    if len(due) < len(opened.cells):
        text += f", {len(due)} to train"
    if (gate := opened.sweep.gate) and not opened.gate:
        rungs = f"{len(gate.rungs)} larger rung{'s' if len(gate.rungs) > 1 else ''}"
        text += f", and behind the gate {rungs} for the base and what passes"
    seconds = spread_over([expected[cell] for cell in due if cell in expected], side_by_side)
    return text + (f", about {duration(seconds)} in all" if seconds else "")


def recipe_lines(cells: Sequence[PlannedCell]) -> list[str]:
    """Say the settings of each cell that follows a recipe, each with the formula that gave it."""
    lines = []
    for one in cells:
        optim = one.cell.config.optim
        if optim.recipe is None:
            continue
        factor = "" if optim.lr_factor == 1 else f"{optim.lr_factor:g} x "
        given = {"lr": f"{one.plan.lr:.3g}", "batch": str(one.plan.tokens_per_step),
                 "weight_decay": f"{optim.weight_decay:.3g}"}  # fmt: skip
        said = [
            f"{knob} {given[knob]} = {factor if knob == 'lr' else ''}{law.formula}"
            for knob, law in optim.recipe.laws.items()
        ]
        sizes = f"N {one.plan.parameters['body']:.4g}, D {one.plan.tokens:.4g}"
        lines.append(f"{one.id}: {'; '.join(said)}   (recipe of {optim.recipe.sweep}; {sizes})")
    return lines


def branches_text(cells: Sequence[PlannedCell]) -> str:
    """Say what trunks save, in one line; empty without them."""
    branches = [one for one in cells if one.cell.branch is not None]
    if not branches:
        return ""
    trunks = len({one.cell.branch.trunk for one in branches if one.cell.branch is not None})
    trained, whole = sum(one.share * one.plan.tokens for one in cells), sum(one.plan.tokens for one in cells)
    return f"{len(branches)} cells branch off {trunks} trunks: {count(trained)} tokens are trained for {count(whole)}"
