"""`escala train`: one run on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from launch.commands.interrupts import interrupts
from launch.commands.options import runs_option, set_option


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@runs_option
@click.option("--ranks", type=click.IntRange(min=1), default=None, help="Ranks on this machine. Default: GPUs, else 1.")
@click.option("--skip-steps", multiple=True, metavar="FIRST:END", help="Leave out a stretch of the data order.")
@click.option(
    "--expected", type=click.Path(path_type=Path), help="Expected curve to follow, of escala forecast --curve."
)
@click.option("--dry-run", is_flag=True, help="Prepare the data, print the plan, and stop.")
def train(
    config: Path,
    assignments: tuple[str, ...],
    runs: Path,
    ranks: int | None,
    skip_steps: tuple[str, ...],
    expected: Path | None,
    dry_run: bool,
) -> None:
    """Train the run CONFIG on this machine. Its directory is RUNS/<name>; running it again continues it.

    \b
    Examples:
      escala train configs/run/tiny.yaml
      escala train configs/run/tiny.yaml --ranks 2 --set parallel.tensor=2
      escala train configs/run/tiny.yaml --set model.size=1M --set tokens=20M --set name=bigger
      escala train configs/run/tiny.yaml --skip-steps 30:34
      escala train configs/run/tiny.yaml --expected expected.json
    """
    from launch.run.train_story import train_here

    if skip_steps:
        assignments = (*assignments, f"skip_steps={json.dumps(skip_steps)}")
    with interrupts():
        train_here(config, assignments, runs, ranks=ranks, expected=expected, dry_run=dry_run)
