"""A sweep that is ready to run: configuration read, data prepared, every cell planned, its directory held."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from launch.run.data_preparation import ensure_prepared
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig, load_sweep
from launch.sweep.execute.run import CellProgress
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, write_atomically
from trainer.data.store.manifest import Manifest
from trainer.plan.plan import Plan, make_plan, share_out
from trainer.plan.resolve import with_data


@dataclass(frozen=True)
class Opened:
    """A sweep with its data prepared and every cell planned."""

    sweep: SweepConfig
    directory: Path
    cells: list[CellProgress]

    @property
    def plans(self) -> dict[str, Plan]:
        return {p.cell.id: p.plan for p in self.cells}


def open_sweep(config: Path, assignments: tuple[str, ...], runs: Path, *, gpu: bool = False) -> Opened:
    """Read a sweep, prepare the data of all cells, and plan each. Raises UserError."""
    sweep = load_sweep(config, assignments)
    directory, cells = runs / sweep.name, []
    manifests: dict[str, Manifest] = {}
    wanted = cells_of(sweep)
    for cell in wanted:
        share_out(cell.config, sweep.ranks, gpu=gpu)  # what does not fit is said before data are prepared
    for cell in wanted:
        data = cell.config.data
        if data.begin != "complete":
            raise UserError(
                "data.begin=published is for single runs: the cells of a sweep would begin with different data"
            )
        if data.directory not in manifests:
            manifests[data.directory] = ensure_prepared(data)
        manifest = manifests[data.directory]
        run = with_data(cell.config, manifest)
        plan = make_plan(run, world=sweep.ranks, gpu=gpu, train_tokens=manifest.tokens("train"))
        known = replace(cell, config=run)
        cells.append(CellProgress(known, plan, RunDir(directory / "cells" / cell.id)))
    return Opened(sweep, directory, cells)


@contextmanager
def locked(opened: Opened) -> Iterator[None]:
    """Hold the sweep's directory, so that two processes never start the same cell, and keep its configuration there."""
    opened.directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(opened.directory / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"another process is running this sweep in {opened.directory}: wait for it, or end it"
        ) from None
    with lock:
        write_atomically(opened.directory / "sweep.json", opened.sweep.model_dump_json(indent=2) + "\n")
        yield
