"""`escala wandb`: the mirror of runs in W&B."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click

from launch.commands.options import runs_option
from launch.groups import OrderedGroup
from trainer.contract.errors import UserError

SENDER = "trainer.observe.wandb_sender"  # a process for each run: the client keeps its state in its process


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
    run again at any time. Needs credentials: $WANDB_API_KEY or `wandb login`.

    \b
    Examples:
      escala wandb sync quickstart
      escala wandb sync runs/tiny runs/other
    """
    from launch.watch.find_runs import find_runs

    found = find_runs(runs, names)
    failed = [run for at, run in enumerate(found, 1) if not _sync(run, left=len(found) - at)]
    if failed:
        raise UserError(f"{len(failed)} runs were not sent in full: mend what is said above and run this again")


def _sync(run: Path, left: int) -> bool:
    """Send one run, print one line about it, and return whether the server has all of it.

    Raises `UserError` where W&B cannot be reached or refuses: the `left` other runs would wait for the same.
    """
    if why := _left_out(run):
        click.echo(f"{run}: skipped, {why}")
        return True
    said = subprocess.run(
        [sys.executable, "-m", SENDER, str(run), "--once"], env=_environment(), capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    try:
        told = json.loads(said.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (said.stderr.strip().splitlines() or [f"exit code {said.returncode}"])[-1]
        click.echo(f"{run}: nothing sent: {last}")
        return False
    click.echo(f"{run}: {_sentence(told)}")
    if not told["reached"]:
        others = f"; {left} other runs were not tried" if left else ""
        raise UserError(f"W&B does not take the runs: {told['error']}{others}. Nothing is lost: run this again")
    return bool(told["error"] is None)


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
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "WANDB_MODE": "online"}
