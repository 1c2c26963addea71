"""`escala why`: what happened to a run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from launch.commands.options import json_option, runs_option


@click.command()
@click.argument("run")
@click.option(
    "--replay",
    type=click.IntRange(min=0),
    is_flag=False,
    flag_value=0,
    metavar="[STEP]",
    help="Take a step again, as it was, and say which module is not finite. Default: the last step that was not.",
)
@json_option
@runs_option
def why(run: str, replay: int | None, as_json: bool, runs: Path) -> None:
    """Say why RUN died, stalled, diverged or is slow, what helps, and the command that goes on.

    RUN is a directory or a name. Of a failed run it names the rank that began it, its host and its traceback, not the
    ranks that failed because of it. Ends with 0 whatever became of the run.

    \b
    Examples:
      escala why tiny
      escala why tiny --replay
      escala why runs/quickstart/cells/d_model=64-0f3a --json | jq -r .cause
    """
    from launch.watch.diagnosis import diagnose
    from launch.watch.find_runs import find_run
    from trainer.contract.hiding import without_secrets
    from trainer.contract.plain_text import plain

    found = find_run(runs, run)
    told = diagnose(found)
    if replay is not None:
        from launch.run.replay_story import replay as take_again

        told = dataclasses.replace(told, details=[*told.details, *take_again(found, replay)])
    if as_json:
        click.echo(without_secrets(json.dumps(told.to_json(), indent=2)))
        return
    cause = "" if told.cause == told.state else f", {told.cause}"
    lines = [f"{told.run_dir}: {told.state}{cause}", f"  {told.says}", *(f"  {line}" for line in told.details)]
    lines += [f"    | {line}" for line in told.traceback]
    lines += [f"  helps: {told.helps}"] if told.helps else []
    lines += [f"  {told.command}"] if told.command else []
    for line in lines:
        click.echo(without_secrets(plain(line)))
