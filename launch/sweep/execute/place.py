"""Where the cells of a sweep run: the backend, and how a cell becomes its job there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.cluster.backend import Driven, Queued, Sharing
from launch.cluster.backends import find_backend, is_driven
from launch.cluster.config import LOCAL, ClusterConfig, open_driver, open_scheduler
from launch.cluster.job import JobSpec
from launch.planner.device_rate import gpu_of_this_machine
from launch.planner.expected import matrix_rate, seconds_on_cpu, seconds_on_gpus
from launch.sweep.cells.config import SweepConfig
from launch.sweep.execute.opened import Opened
from launch.sweep.execute.underway import Place
from trainer.contract.errors import UserError
from trainer.plan.gpus import GIB, find_gpu, slot_bytes


def place_of(opened: Opened, cluster: ClusterConfig | None, name: str, at_most: int | None) -> Place:
    """Return the backend of the cells, and how a cell becomes its job there."""
    sweep = opened.sweep
    where = cluster or LOCAL.model_copy(update={"ranks_per_node": sweep.slots or sweep.ranks})
    kind = find_backend(where.backend)
    if isinstance(kind, Queued) and kind.start is not None:
        raise UserError(
            f"nothing starts the cells of a sweep on {name}: {kind.name} only lays runs out. Use another cluster, or "
            "`escala submit` for each run"
        )
    if not is_driven(where.backend):
        return Place(where, where.job, scheduler=open_scheduler(where), name=name, at_most=at_most)
    refuse_crowded_gpus(opened, where)
    driver = open_driver(where, Sharing(threads=1, log=opened.directory / "ranks.log"))

    def job(name: str, command: tuple[str, ...], run_dir: Path) -> JobSpec:
        return replace(where.job(name, command, run_dir), nodes=1, ranks_per_node=sweep.ranks)

    return Place(where, job if kind.side_by_side else where.job, driver=driver, name=name)


def check_shape(sweep: SweepConfig, cluster: ClusterConfig, name: str) -> None:
    """Raise UserError where a cell's ranks are not those that the cluster gives to a job."""
    world = cluster.nodes * cluster.ranks_per_node
    if find_backend(cluster.backend).side_by_side and sweep.ranks <= world:
        return
    if world != sweep.ranks:
        raise UserError(
            f"a cell of sweep {sweep.name!r} has {sweep.ranks} ranks, a job on {name} has {cluster.nodes} nodes x "
            f"{cluster.ranks_per_node} = {world}: set `ranks: {world}` in the sweep, or nodes and ranks_per_node there"
        )


def refuse_crowded_gpus(opened: Opened, where: ClusterConfig) -> None:
    """Raise UserError where a cell's planned memory is more than its share of a GPU that ranks share."""
    kind = find_backend(where.backend)
    slots = kind.slots_per_gpu(where) if isinstance(kind, Driven) else 1
    if slots == 1 or where.gpu is None:
        return
    gpu = find_gpu(where.gpu)
    most = max(opened.cells, key=lambda one: one.plan.memory_bytes["total"])
    needed = most.plan.memory_bytes["total"]
    if needed > slot_bytes(gpu.memory, slots):
        fit = max((n for n in range(1, slots) if needed <= slot_bytes(gpu.memory, n)), default=0)
        way_out = "no GPU of that kind holds even one of them"
        if fit:
            way_out = f"set options.slots_per_gpu to {fit}, and ranks_per_node to {fit} for each GPU"
        raise UserError(
            f"cell {most.id} is planned to take {needed / GIB:.1f} GiB, and {slots} slots of a {gpu.name} with "
            f"{gpu.memory / GIB:.0f} GiB have {max(0, slot_bytes(gpu.memory, slots)) / GIB:.1f} GiB each "
            f"(options.slots_per_gpu): {way_out}"
        )


def at_a_time(opened: Opened, cluster: ClusterConfig | None) -> int:
    """Return how many cells run side by side."""
    slots = (opened.sweep.slots or 0) if cluster is None else cluster.nodes * cluster.ranks_per_node
    return max(1, slots // opened.sweep.ranks)


def expected_seconds(opened: Opened, cluster: ClusterConfig | None) -> dict[str, float]:
    """Return how many seconds each cell takes on this machine, as far as can be said before; nothing elsewhere."""
    where = cluster or LOCAL
    kind, ranks = find_backend(where.backend), at_a_time(opened, cluster) * opened.sweep.ranks
    if not (isinstance(kind, Driven) and kind.side_by_side):
        return {}
    if not opened.gpu:
        rate = matrix_rate()
        return {o.id: o.share * seconds_on_cpu(o.cell.config, o.plan, rate, ranks=ranks) for o in opened.cells}
    gpu = gpu_of_this_machine(where.gpu)
    if gpu is None:
        return {}
    options = {"ranks": opened.sweep.ranks, "sharing": kind.slots_per_gpu(where)}
    return {o.id: o.share * seconds_on_gpus(o.cell.config, o.plan, gpu, **options) for o in opened.cells}
