"""The story of a sweep: data, plan, runs, ledger, law, report. Each step is done once and kept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from launch.backends.local import LocalBackend
from launch.console import make_console
from launch.data_preparation import ensure_prepared, is_prepared
from launch.plan_table import sweep_table
from launch.scaling.report.console import print_ladder
from launch.scaling.report.write import ReportPaths, write
from launch.scaling.table import from_ledger
from launch.sweep import ledger
from launch.sweep.cells import Cell, cells_of
from launch.sweep.collect import loss_curve
from launch.sweep.config import SweepConfig, load_sweep
from launch.sweep.estimate import matrix_rate, seconds_on_cpu
from launch.sweep.progress import Watcher, last_step
from launch.sweep.run import CellProgress, SweepRun
from launch.text import duration
from trainer.config.plan import Plan, make_plan
from trainer.config.resolve import with_data
from trainer.data.manifest import Manifest
from trainer.errors import UserError
from trainer.run_dir import RunDir, Status, write_atomically


def run_sweep(config: Path, assignments: tuple[str, ...], runs: Path, *, dry_run: bool, failed: bool) -> None:
    """Do what is missing of a sweep and print what came out. Raises UserError where cells failed."""
    console = make_console()
    sweep = load_sweep(config, assignments)
    cells = cells_of(sweep)
    cells, plans = _planned(sweep, cells)
    expected = {cell.id: seconds_on_cpu(cell.config, plans[cell.id], matrix_rate()) for cell in cells}
    console.print(sweep_table(plans, expected, console.width))
    console.print(f"{len(cells)} runs of {sweep.ranks} ranks, about {duration(sum(expected.values()))} in all\n")
    if dry_run:
        return
    directory = runs / sweep.name
    with _locked(directory):
        _remember(sweep, directory)
        sweep_run = _train(sweep, cells, plans, expected, directory, console, failed)
        _report(sweep, sweep_run, console)
    _refuse_failed(sweep_run, config)


def _planned(sweep: SweepConfig, cells: list[Cell]) -> tuple[list[Cell], dict[str, Plan]]:
    """Prepare the data of all cells, and return the cells with their vocabulary and their plans."""
    resolved, plans = [], {}
    manifests: dict[str, Manifest] = {}
    for cell in cells:
        data = cell.config.data
        if data.directory not in manifests:
            manifests[data.directory] = ensure_prepared(data)
        manifest = manifests[data.directory]
        run = with_data(cell.config, manifest)
        plans[cell.id] = make_plan(run, world=sweep.ranks, train_tokens=manifest.tokens("train"))
        resolved.append(Cell(cell.id, cell.settings, run, cell.check_of, cell.tolerance))
    return resolved, plans


def _locked(directory: Path) -> FileLock:
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is running this sweep in {directory}: wait for it, or end it") from None
    return lock


def _remember(sweep: SweepConfig, directory: Path) -> None:
    write_atomically(directory / "sweep.json", sweep.model_dump_json(indent=2) + "\n")


def _train(
    sweep: SweepConfig,
    cells: list[Cell],
    plans: dict[str, Plan],
    expected: dict[str, float],
    directory: Path,
    console: Console,
    failed: bool,
) -> SweepRun:
    progress = [CellProgress(cell, plans[cell.id], RunDir(directory / "cells" / cell.id)) for cell in cells]
    backend = LocalBackend(sweep.slots or sweep.ranks, threads=1, log=directory / "ranks.log")
    with backend, Watcher(console, expected) as watcher:
        sweep_run = SweepRun(directory, progress, backend, sweep.ranks, watcher.update, backend.wait, retry=failed)
        began = time.monotonic()
        missing = sum(1 for p in progress if p.ended is None)
        sweep_run.run()
    if missing:
        console.print(f"{missing} runs in {duration(time.monotonic() - began)}\n")
    else:
        console.print("every cell is done: nothing to train\n")
    return sweep_run


def _report(sweep: SweepConfig, run: SweepRun, console: Console) -> None:
    """Print the table and the law, and write the report, from the ledger alone."""
    ids = {p.cell.id for p in run.cells if p.cell.check_of is None}
    rows = [r for r in ledger.read(run.ledger) if r["cell"] in ids and r["eval_set"] == sweep.fit.eval_set]
    checks = check_layouts(run.cells)
    for line in checks:
        console.print(line["text"], style="green" if line["agrees"] else "red", highlight=False)
    if len(rows) < 3:
        console.print(f"{len(rows)} points in the ledger: too few for a law")
        return
    print_ladder(from_ledger(rows, n_convention="body"), console)
    curves = next((line["curves"] for line in checks), None)
    paths: ReportPaths = write(
        rows, run.directory / "report", title=sweep.name, layout_check=curves, n_convention="body"
    )
    console.print(f"\nledger  {run.ledger}\nreport  {paths.html}", highlight=False, soft_wrap=True)


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


def _refuse_failed(run: SweepRun, config: Path) -> None:
    if not run.failed:
        return
    reasons = "; ".join(f"{p.cell.id}: {p.failure}" for p in run.failed)
    raise UserError(
        f"{len(run.failed)} of {len(run.cells)} cells failed ({reasons}). Logs are under {run.directory / 'cells'}; "
        f"'escala sweep run {config} --failed' starts them again"
    )


def sweep_status(config: Path, assignments: tuple[str, ...], runs: Path) -> dict[str, Any]:
    """Return the state of every cell, from the run directories alone."""
    sweep = load_sweep(config, assignments)
    directory = runs / sweep.name
    cells = []
    for cell in cells_of(sweep):
        run_dir = RunDir(directory / "cells" / cell.id)
        row = last_step(run_dir.metrics) or {}
        steps = json.loads(run_dir.plan.read_text())["steps"] if run_dir.plan.exists() else None
        status = run_dir.read_status()
        cells.append(
            {
                "id": cell.id,
                "state": status.value if status else "waiting",
                "step": row.get("step", 0),
                "steps": steps,
                "loss": row.get("loss"),
                "run_dir": str(run_dir.root),
            }
        )
    done = sum(1 for cell in cells if cell["state"] == Status.DONE)
    prepared = all(is_prepared(cell.config.data) for cell in cells_of(sweep))
    return {"sweep": sweep.name, "directory": str(directory), "data_prepared": prepared, "done": done, "cells": cells}
