"""`escala wandb`: the mirror of runs in W&B."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from launch.commands.options import runs_option
from launch.groups import OrderedGroup
from trainer.contract.errors import UserError

# A process for each run: the client keeps its state in its process.
SENDER, SWEEP_SENDER = "trainer.observe.wandb_sender", "trainer.observe.wandb_sweep"


@click.group(cls=OrderedGroup)
def wandb() -> None:
    """Send the records of runs to W&B, which mirrors them.

    \b
    Examples:
      escala wandb sync quickstart
    """


@wandb.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN|SWEEP|DIR...")
@runs_option
def sync(names: tuple[str, ...], runs: Path) -> None:
    """Send every row that W&B lacks of these runs, and say what was sent.

    The rows come from each run's metrics.jsonl, whatever ended the run. W&B is asked first what it has, so this can be
    run again at any time. A sweep becomes a run of its own beside its cells: their table, perplexity against
    parameters, the law and the report. Needs credentials: $WANDB_API_KEY or `wandb login`.

    \b
    Examples:
      escala wandb sync quickstart
      escala wandb sync runs/tiny runs/other
    """
    from launch.watch.find_runs import find_runs, sweep_of

    found = find_runs(runs, names)
    failed = [run for at, run in enumerate(found, 1) if not _sync(run, left=len(found) - at)]
    sweeps = {run.parent.parent: run for run in found if sweep_of(run)}
    failed += [sweep for sweep, cell in sweeps.items() if not _sync_sweep(sweep, cell)]
    if failed:
        raise UserError(f"{len(failed)} runs were not sent in full: mend what is said above and run this again")


def _sync(run: Path, left: int) -> bool:
    """Send one run, print one line about it, and return whether the server has all of it.

    Raises `UserError` where W&B cannot be reached or refuses: the `left` other runs would wait for the same.
    """
    if why := _left_out(run):
        click.echo(f"{run}: skipped, {why}")
        return True
    told = _ask(run, SENDER, str(run), "--once")
    if told is None:
        return False
    click.echo(f"{run}: {_sentence(told)}")
    if not told["reached"]:
        others = f"; {left} other runs were not tried" if left else ""
        raise UserError(f"W&B does not take the runs: {told['error']}{others}. Nothing is lost: run this again")
    return bool(told["error"] is None)


def _sync_sweep(sweep: Path, cell: Path) -> bool:
    """Send the run that stands for a sweep, and return whether the server has it."""
    from launch.sweep.ledger.mirrored import mirrored

    payload = mirrored(sweep, cell)
    if payload is None:
        return True
    told = _ask(sweep, SWEEP_SENDER, said=json.dumps(payload))
    if told is None:
        return False
    rows = payload["rows"]
    assert isinstance(rows, list)
    click.echo(f"{sweep}: {told['error'] or f'sent the sweep, {len(rows)} cells'}")
    return bool(told["error"] is None)


def _ask(run: Path, program: str, *words: str, said: str = "") -> dict[str, Any] | None:
    """Run a sender and return what it says; None, and a line about it, where it left no word."""
    ended = subprocess.run(
        [sys.executable, "-m", program, *words], env=_environment(), capture_output=True, text=True, input=said,
        check=False,
    )  # fmt: skip
    try:
        told: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        click.echo(f"{run}: nothing sent: {last}")
        return None
    return told


def _sentence(told: dict[str, object]) -> str:
    sent = f"sent {told['sent']} rows, W&B has all {told['rows']}"
    return sent if told["error"] is None else f"sent {told['sent']} of {told['rows']} rows: {told['error']}"


def _left_out(run: Path) -> str:
    """Return why a run has nothing to send; "" where it has."""
    if not (run / "metrics.jsonl").exists() or not (run / "run.json").exists():
        return "it has not begun"
    from trainer.config.yaml_text import parse_yaml

    tracking = parse_yaml((run / "config.yaml").read_text(encoding="utf-8")).get("tracking") or {}
    return "tracking.wandb is disabled" if tracking.get("wandb") == "disabled" else ""


def _environment() -> dict[str, str]:
    """Return this environment, in which the sender finds the program and W&B goes online."""
    place = str(Path(__file__).resolve().parents[2])
    paths = [place, *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}  # no other program's client
    return {**own, "PYTHONPATH": os.pathsep.join(paths), "WANDB_MODE": "online"}
