"""The story of a sweep: data, plan, runs, ledger, law, report. Each step is done once and kept."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from launch.cluster.config import LOCAL, ClusterConfig, open_backend
from launch.cluster.job import JobSpec
from launch.cluster.local.local import LocalBackend
from launch.cluster.local.warm import PRELOAD
from launch.cluster.ssh.backend import SshBackend
from launch.planner.expected import matrix_rate, seconds_on_cpu
from launch.run.rank_packages import need_rank_packages
from launch.run.run_state import DEAD, state_of
from launch.run.runs_root import runs_flag
from launch.scaling.report.console import print_ladder
from launch.scaling.report.write import ReportPaths, write
from launch.scaling.table.counting import DEFAULT_N
from launch.scaling.table.load import from_ledger
from launch.show.plan_table import sweep_table
from launch.show.text import count
from launch.sweep.execute.opened import Opened, has_gpus, locked, open_sweep
from launch.sweep.execute.progress import Watcher, spread_over
from launch.sweep.execute.run import CellProgress, SweepRun
from launch.sweep.execute.submit import recorded_cluster, standing
from launch.sweep.ledger import ledger
from launch.sweep.ledger.collect import loss_curve
from trainer.contract.durations import duration
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_DIVERGED, EXIT_DONE, EXIT_FAILED
from trainer.contract.run_dir import Status


@dataclass(frozen=True)
class Result:
    """What one call did with a sweep. `failure` says which cells ended badly, why, and how to start them again."""

    started: list[CellProgress] = field(default_factory=list)  # trained here, or sent to a cluster
    report: ReportPaths | None = None
    failure: str = ""
    exit_code: int = EXIT_DONE

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        paths = self.report and {"html": str(self.report.html), "markdown": str(self.report.markdown)}
        return {"started": [p.cell.id for p in self.started], "report": paths}


def run_sweep(
    config: Path,
    assignments: tuple[str, ...],
    runs: Path,
    console: Console,
    *,
    dry_run: bool = False,
    failed: bool = False,
    cluster: ClusterConfig | None = None,
    n_convention: str = DEFAULT_N,
) -> Result:
    """Do what is missing of a sweep, here or on machines driven from here, and print what came out."""
    if cluster is None and not dry_run:
        need_rank_packages()
    opened = open_sweep(config, assignments, runs, gpu=has_gpus(cluster))
    expected, at_a_time = {}, max(1, (opened.sweep.slots or 0) // opened.sweep.ranks)
    if cluster is None:
        ranks = at_a_time * opened.sweep.ranks
        expected = {
            p.cell.id: p.share * seconds_on_cpu(p.cell.config, p.plan, matrix_rate(), ranks=ranks) for p in opened.cells
        }
    console.print(sweep_table(opened.plans, expected, console.width))
    console.print(_total_text(opened, expected, at_a_time, failed=failed), highlight=False)
    if saved := branches_text(opened.cells):
        console.print(saved, highlight=False)
    console.print()
    if dry_run:
        return Result()
    with locked(opened):
        if busy := standing(opened.cells).busy:
            raise UserError(
                f"{len(busy)} cells of this sweep are queued or running on {recorded_cluster(opened.directory)}: "
                f"wait for them ('escala sweep status {config}{runs_flag(opened.directory.parent)}'), or end them with "
                "'escala cancel'"
            )
        _tell_dead(opened.cells, console)
        sweep_run = _train(opened, expected, at_a_time, console, failed, cluster)
        paths = report(opened, console, n_convention)
    started = [p for p in opened.cells if p.starts]
    return Result(started, paths, *ending(sweep_run.failed, sweep_run.diverged, opened, config))


def _tell_dead(cells: list[CellProgress], console: Console) -> None:
    """Name the cells that say they run and do not: they are started again."""
    for progress in cells:
        state = state_of(progress.run_dir)
        if state.word == DEAD:
            console.print(f"{progress.cell.id} {state.reason}", highlight=False, markup=False, soft_wrap=True)


def _total_text(opened: Opened, expected: dict[str, float], at_a_time: int, *, failed: bool) -> str:
    """Say how many runs there are, how many will be trained, and how long those will take."""
    missing = [p.cell.id for p in opened.cells if p.due(retry=failed)]
    ranks = opened.sweep.ranks
    text = f"{len(opened.cells)} runs of {ranks} {'rank' if ranks == 1 else 'ranks'}"
    if len(missing) < len(opened.cells):
        text += f", {len(missing)} to train"
    seconds = spread_over([expected[cell] for cell in missing if cell in expected], at_a_time)
    return text + (f", about {duration(seconds)} in all" if seconds else "")


def branches_text(cells: list[CellProgress]) -> str:
    """Say what trunks save, in one line; empty without them."""
    branches = [p for p in cells if p.cell.branch is not None]
    if not branches:
        return ""
    trunks = len({p.cell.branch.trunk for p in branches if p.cell.branch is not None})
    trained, whole = sum(p.share * p.plan.tokens for p in cells), sum(p.plan.tokens for p in cells)
    return f"{len(branches)} cells branch off {trunks} trunks: {count(trained)} tokens are trained for {count(whole)}"


def _train(
    opened: Opened,
    expected: dict[str, float],
    at_a_time: int,
    console: Console,
    failed: bool,
    cluster: ClusterConfig | None,
) -> SweepRun:
    backend, job = _place(opened, cluster)
    with backend, Watcher(console, expected, at_a_time) as watcher:
        run = SweepRun(opened.directory, opened.cells, backend, job, watcher.update, backend.wait, retry=failed)
        began = time.monotonic()
        run.run()
    started = sum(1 for p in opened.cells if p.starts)
    if started:
        took = duration(time.monotonic() - began)
        console.print(f"trained {started} {'run' if started == 1 else 'runs'} in {took}\n", highlight=False)
    elif not run.failed and not run.diverged:
        console.print("every cell is done: nothing to train\n")
    else:
        console.print(f"nothing to train: {len(run.failed)} cells failed and {len(run.diverged)} diverged before\n")
    return run


def _place(
    opened: Opened, cluster: ClusterConfig | None
) -> tuple[LocalBackend | SshBackend, Callable[[str, tuple[str, ...], Path], JobSpec]]:
    """Return the backend that runs the cells from this process, and how a cell becomes its job."""
    sweep = opened.sweep
    if cluster is not None and cluster.backend == "ssh":
        backend = open_backend(cluster)
        assert isinstance(backend, SshBackend)
        return backend, cluster.job
    slots = cluster.nodes * cluster.ranks_per_node if cluster else sweep.slots or sweep.ranks

    def job(name: str, command: tuple[str, ...], run_dir: Path) -> JobSpec:
        here = cluster or LOCAL
        return replace(here.job(name, command, run_dir), nodes=1, ranks_per_node=sweep.ranks)

    mirrored = any(p.cell.config.tracking.wandb != "disabled" for p in opened.cells)
    preload = (*PRELOAD, "wandb") if mirrored else PRELOAD  # a second of each cell otherwise, beside its first steps
    return LocalBackend(slots, threads=1, preload=preload, log=opened.directory / "ranks.log"), job


def report(opened: Opened, console: Console, n_convention: str = DEFAULT_N) -> ReportPaths | None:
    """Print the table and the law, and write the report, from the ledger alone. Return None where there is no law."""
    sweep, path = opened.sweep, opened.directory / "ledger.jsonl"
    ids = {p.cell.id for p in opened.cells if p.cell.check_of is None}
    wanted = (sweep.fit.eval_set, ledger.NO_SET)
    rows = [r for r in ledger.read(path) if r["cell"] in ids and r["eval_set"] in wanted]
    points = {r["cell"] for r in rows if r.get("status", "done") == "done"}
    checks = check_layouts(opened.cells)
    for line in checks:
        console.print(line["text"], style="green" if line["agrees"] else "red", highlight=False)
    if len(points) < 3:
        console.print(f"{len(points)} points in the ledger: too few for a law")
        return None
    curves = next((line["curves"] for line in checks), None)
    try:
        table = from_ledger(rows, str(path), hashlib.sha256(path.read_bytes()).hexdigest(), n_convention)
        law = print_ladder(table, console)
        paths = write(table, opened.directory / "report", title=sweep.name, layout_check=curves)
    except UserError as error:  # the runs are trained and in the ledger: a sweep of seeds has no law, and is no failure
        console.print(
            f"no law from these {len(points)} points: {error}\nledger  {path}", highlight=False, soft_wrap=True
        )
        return None
    named = "" if law is None else f" --law {law}"
    named += "" if n_convention == DEFAULT_N else f" --n-convention {n_convention}"
    ends = f"\nledger  {path}\nreport  {paths.html}\nnext    escala fit {path}{named} --out fit.json"
    console.print(ends, highlight=False, soft_wrap=True)
    return paths


def check_layouts(cells: list[CellProgress]) -> list[dict[str, Any]]:
    """Compare each layout check's curve with that of its cell, where both are done."""
    found = []
    by_id = {p.cell.id: p for p in cells}
    for check in cells:
        if check.cell.check_of is None or check.ended is not Status.DONE:
            continue
        other = by_id[check.cell.check_of]
        a, b = loss_curve(other.run_dir), loss_curve(check.run_dir)
        steps = sorted(a.keys() & b.keys())
        if not steps or check.cell.tolerance is None:
            continue
        difference = max(abs(a[step] - b[step]) for step in steps)
        agrees = difference <= check.cell.tolerance
        text = (
            f"layout check: {check.plan.layout} against {other.plan.layout}: largest difference of the training loss "
            f"over {len(steps)} recorded steps {difference:.2g} nats "
            f"({'within' if agrees else 'NOT within'} {check.cell.tolerance:g})"
        )
        curves = {p.plan.layout: (steps, [c[s] for s in steps]) for p, c in ((other, a), (check, b))}
        found.append({"text": text, "agrees": agrees, "difference": difference, "curves": curves})
    return found


def ending(failed: list[CellProgress], diverged: list[CellProgress], opened: Opened, config: Path) -> tuple[str, int]:
    """Return which cells ended badly, why, and how to start them again, with the exit code; empty where none did."""
    if not failed and not diverged:
        return "", EXIT_DONE
    named = {"failed": failed, "diverged": diverged}
    told = [
        f"{len(cells)} of {len(opened.cells)} cells {word} ({'; '.join(f'{p.cell.id}: {p.failure}' for p in cells)})"
        for word, cells in named.items()
        if cells
    ]
    again = "resume" if recorded_cluster(opened.directory) else "run"
    text = (
        f"{', '.join(told)}. Logs are under {opened.directory / 'cells'}; "
        f"'escala sweep {again} {config}{runs_flag(opened.directory.parent)} --failed' starts them again"
    )
    return text, EXIT_FAILED if failed else EXIT_DIVERGED
