"""The command that goes on with a run: the one that began it, with what would help."""

from __future__ import annotations

import shlex
from pathlib import Path

from launch.cluster.config import LOCAL
from launch.cluster.registry import read as read_job
from launch.run.runs_root import runs_flag
from launch.sweep.execute.begun_by import begun_by
from launch.watch.evidence import Evidence
from launch.watch.find_runs import sweep_of
from trainer.config.load import load_run
from trainer.contract.errors import UserError


def go_on(run: Path, found: Evidence | None = None, *, badly: bool = False) -> str:
    """Return the command. `found` adds settings and options; `badly` says that a sweep must be told to try it again."""
    found = found or Evidence()
    if sweep_of(run):
        return _sweep(run, badly=badly)
    job, config = read_job(run), shlex.quote(str(run / "config.yaml"))
    changed = "".join(f" --set {shlex.quote(f'{key}={value}')}" for key, value in found.settings.items())
    where = f"{changed}{runs_flag(run.parent)}"
    if job is not None and job.cluster != LOCAL.backend:
        return f"escala submit {config} --cluster {shlex.quote(job.cluster)}{where}"
    options = "" if _skips(run) else "".join(f" {option}" for option in found.options)
    return f"escala train {config}{_ranks(job.world_size if job else 1)}{options}{where}"


def _sweep(run: Path, *, badly: bool) -> str:
    """Return how a sweep goes on, from the file that it was begun with."""
    directory = run.parent.parent
    begun = begun_by(directory)
    words = [begun.config, *(word for one in begun.assignments for word in ("--set", one))] if begun else []
    shown = shlex.join(words) if words else f"{shlex.quote(directory.name)}.yaml"
    return f"escala sweep resume {shown}{' --failed' * badly}{runs_flag(directory.parent)}"


def _ranks(world: int) -> str:
    return f" --ranks {world}" if world > 1 else ""


def _skips(run: Path) -> bool:
    """Tell whether a run leaves data out already: a further stretch is counted in the order of the data then."""
    try:
        return bool(load_run(run / "config.yaml").skip_steps)
    except (UserError, OSError):
        return False
