"""The command `escala`.

Each command lives in its own module under `launch/commands/` and is imported only when it is asked for, so
that `escala --help` stays fast and no command pays for another one's imports.
"""

from __future__ import annotations

import os
import sys

import click

from launch.groups import LazyGroup
from trainer.contract.errors import UserError, os_error_text
from trainer.contract.exit_codes import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_USER_ERROR
from trainer.contract.hiding import hide_in_tracebacks, without_secrets
from trainer.contract.plain_text import plain

# name -> (module:attribute, one line for --help). In the order in which a user meets them.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("launch.commands.train:train", "Train one run on this machine."),
    "submit": ("launch.commands.submit:submit", "Train one run on a cluster: Slurm, SSH hosts, Kubernetes."),
    "render": ("launch.commands.render:render", "Print what would be submitted, byte for byte."),
    "jobs": ("launch.commands.jobs:jobs", "List submitted runs and how they stand."),
    "watch": ("launch.commands.watch:watch", "Show runs while they train: state, step, loss, speed, time left."),
    "profile": ("launch.commands.profile:profile", "Ask a running job for a profile of its next steps."),
    "why": ("launch.commands.why:why", "Say why a run died, stalled, diverged or is slow."),
    "logs": ("launch.commands.logs:logs", "Print or follow what the ranks of a run print."),
    "cancel": ("launch.commands.cancel:cancel", "End jobs."),
    "wandb": ("launch.commands.wandb:wandb", "Send the records of runs to W&B."),
    "clusters": ("launch.commands.clusters:clusters", "List configured clusters, and say which answer."),
    "preflight": ("launch.commands.preflight:preflight", "Check every node of a cluster before the first job."),
    "doctor": ("launch.commands.doctor:doctor", "Describe this environment, for bug reports."),
    "keys": ("launch.commands.keys:keys", "Print what a configuration file can say: keys, values, defaults."),
    "data": ("launch.commands.data:data", "Prepare, inspect and verify token sets."),
    "plan": ("launch.commands.plan:plan", "Print what a run costs, before it starts."),
    "checkpoint": ("launch.commands.checkpoint:checkpoint", "Inspect, verify and convert checkpoints."),
    "sample": ("launch.commands.sample:sample", "Continue a prompt with a trained model."),
    "evaluate": ("launch.commands.evaluate:evaluate", "Score a trained run on a whole set, as published tables do."),
    "sweep": ("launch.commands.sweep:sweep", "Train families of models and fit a law to them."),
    "fit": ("launch.commands.fit:fit", "Fit a scaling law to a ledger or to any table of runs."),
    "compare": ("launch.commands.compare:compare", "Say whether a change is real, and how much compute it is worth."),
    "optimal": ("launch.commands.optimal:optimal", "Say what to train with a budget, according to a fit."),
    "forecast": ("launch.commands.forecast:forecast", "Write a prediction down before the run; score it after."),
    "report": ("launch.commands.report:report", "Write an HTML report about a table of runs."),
}

EPILOG = """\b
Examples:
  escala sweep run configs/sweep/quickstart.yaml   train families of models and fit their laws
  escala train configs/run/tiny.yaml               one run on this machine
  escala plan configs/run/tiny.yaml                what it costs, before it starts
  escala train --help                              every command has examples of its own
"""


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="escala")
def escala() -> None:
    """What happens when I scale this up? Train ladders of language models, fit a law, forecast the next one."""


def main(args: list[str] | None = None) -> None:
    """Entry point: user errors become one line on standard error and exit code 2."""
    hide_in_tracebacks()
    try:
        escala.main(args=args, prog_name="escala", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_USER_ERROR)
    except UserError as error:
        click.secho(plain(without_secrets(f"error: {error}")), fg="red", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read our output has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_BROKEN_PIPE)
    except OSError as error:
        if error.errno is None:  # not the system's word, so it is ours
            raise
        click.secho(plain(without_secrets(f"error: {os_error_text(error)}")), fg="red", err=True)
        sys.exit(EXIT_USER_ERROR)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
