"""A sweep that is ready to run: configuration read, data prepared, every cell planned, its directory held."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from launch.cluster.config import ClusterConfig
from launch.cluster.this_machine import local_gpus
from launch.run.data_preparation import ensure_prepared
from launch.sweep.cells.cell import Cell
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig, load_sweep
from launch.sweep.cells.former import refuse_former
from launch.sweep.cells.gate import Passage, through_gate
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.execute.begun_by import BEGUN, RECORD, BegunBy
from launch.sweep.ledger import ledger
from trainer.contract.errors import UserError
from trainer.contract.plain_json import DamagedFileError, read_object, to_json
from trainer.contract.run_dir import RunDir, write_atomically
from trainer.data.store.manifest import Manifest
from trainer.plan.plan import Plan, make_plan, share_out
from trainer.plan.resolve import with_data

GPU = "gpu"  # in the record: whether its ranks found one


@dataclass(frozen=True)
class Opened:
    """A sweep with its data prepared and every cell planned."""

    sweep: SweepConfig
    directory: Path
    cells: list[PlannedCell]
    gpu: bool = False  # whether the ranks find one
    gate: tuple[str, ...] = ()  # what its gate said, a line for each change; empty until the first stage has ended
    begun: BegunBy | None = None

    @property
    def plans(self) -> dict[str, Plan]:
        """Return each cell's plan by its id."""
        return {one.id: one.plan for one in self.cells}


def open_sweep(config: Path, assignments: tuple[str, ...], runs: Path, *, gpu: bool = False) -> Opened:
    """Read a sweep, prepare the data of all cells, and plan each. Raises UserError."""
    stated = load_sweep(config, assignments)
    directory = runs / stated.name
    passage = _passage(stated, directory, gpu=gpu)
    wanted = cells_of(passage.sweep, gpu=gpu)
    ledger_file = directory / "ledger.jsonl"
    refuse_former(wanted, ledger.latest(ledger_file), ledger_file)
    cells = plan_cells(wanted, passage.sweep, directory, gpu=gpu)
    begun = BegunBy(str(config.resolve() if config.exists() else config), tuple(assignments))
    return Opened(passage.sweep, directory, cells, gpu, tuple(passage.lines), begun)


def plan_cells(wanted: Sequence[Cell], sweep: SweepConfig, directory: Path, *, gpu: bool) -> list[PlannedCell]:
    """Prepare the data of these cells and plan each. Raises UserError, before data are prepared where that is known."""
    cells: list[PlannedCell] = []
    manifests: dict[str, Manifest] = {}
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
        cells.append(PlannedCell(known, plan, RunDir(directory / "cells" / cell.id)))
    return cells


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
        said = {**opened.sweep.model_dump(mode="json"), GPU: opened.gpu}
        if opened.begun is not None:
            said[BEGUN] = asdict(opened.begun)
        write_atomically(opened.directory / RECORD, to_json(said, indent=2) + "\n")
        yield


def cells_in(sweep: SweepConfig, directory: Path) -> list[Cell]:
    """Return the cells of a sweep under the names that they have in its directory; those of this machine in a new one.

    What `precision: auto` came to belongs to a name, and this machine need not be the one that trains.
    """
    try:
        gpu = bool(read_object(directory / RECORD, GPU)[GPU])
    except (FileNotFoundError, DamagedFileError):
        gpu = has_gpus(None)
    return cells_of(_passage(sweep, directory, gpu=gpu).sweep, gpu=gpu)


def _passage(sweep: SweepConfig, directory: Path, *, gpu: bool) -> Passage:
    """Return the sweep as far as its gate is open, by the ledger in its directory."""
    first = () if sweep.gate is None else [c.id for c in cells_of(sweep, gpu=gpu) if c.check_of is None]
    return through_gate(sweep, first, directory / "ledger.jsonl")


def has_gpus(cluster: ClusterConfig | None) -> bool:
    """Return whether the ranks of a sweep find a GPU: on a cluster as its file says, else on this machine."""
    return bool(local_gpus(os.environ)) if cluster is None else cluster.gpu is not None
