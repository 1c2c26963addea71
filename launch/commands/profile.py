"""`escala profile`: a profile of a running job."""

from __future__ import annotations

from pathlib import Path

import click

from launch.commands.options import runs_option


@click.command()
@click.argument("run")
@click.option("--steps", type=click.IntRange(1, 100), default=3, show_default=True, help="How many steps.")
@runs_option
def profile(run: str, steps: int, runs: Path) -> None:
    """Ask the ranks of RUN for a profile of their next steps, and return.

    RUN is a directory or a name. Its ranks see it at their next recorded row; each then leaves a trace in
    RUN/profiles, which https://ui.perfetto.dev opens. A run that does not begin yet has `tracking.profile_steps`.

    \b
    Examples:
      escala profile tiny
      escala profile tiny --steps 10
    """
    from launch.run.run_state import state_of
    from launch.watch.find_runs import find_run
    from trainer.contract.errors import UserError
    from trainer.contract.profile_request import leave_request
    from trainer.contract.run_dir import RunDir, Status

    found = find_run(runs, run)
    word = state_of(RunDir(found)).word
    if word != Status.RUNNING:
        raise UserError(f"{found} is {word}: a profile is of a run that trains; set tracking.profile_steps instead")
    leave_request(found, steps)
    click.echo(f"asked: {steps} steps from its next row on, into {found / 'profiles'}")
