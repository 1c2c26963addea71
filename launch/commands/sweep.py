"""`escala sweep`: ladders and grids of runs, and the law that comes out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launch.commands.interrupts import interrupts
from launch.commands.options import cluster_option, json_option, n_convention_option, runs_option, set_option
from launch.groups import LazyGroup
from trainer.contract.errors import EndedBadlyError, UserError
from trainer.contract.plain_json import to_json
from trainer.contract.plain_text import plain

if TYPE_CHECKING:
    from rich.console import Console

    from launch.sweep.execute.story import Result, Wish

failed_option = click.option("--failed", is_flag=True, help="Start the cells again that failed or diverged before.")
at_most_option = click.option("--at-most", type=click.IntRange(min=1), help="Cells that run at a time, of the array.")

COMMANDS = {
    "run": ("launch.commands.sweep:run", "Train every cell that is missing, then fit and report."),
    "submit": ("launch.commands.sweep:submit", "Send every cell that is missing to a cluster."),
    "resume": ("launch.commands.sweep:resume", "Go on with a sweep where it was last, here or on its cluster."),
    "status": ("launch.commands.sweep:status", "Say how far a sweep is."),
    "design": ("launch.commands.design:design", "Propose the cells that tell most for a budget."),
    "tune": ("launch.commands.tune:tune", "Find the best learning rate by size, and write it as a recipe."),
    "coordcheck": ("launch.commands.coordcheck:coordcheck", "Say whether activations change alike at every width."),
    "critical-batch": (
        "launch.commands.critical_batch:critical_batch",
        "Say up to which batch more tokens a step save steps.",
    ),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def sweep() -> None:
    """Train families of models and fit a law to them.

    \b
    Examples:
      escala sweep run configs/sweep/quickstart.yaml
      escala sweep run configs/sweep/quickstart.yaml --dry-run
      escala sweep submit configs/sweep/quickstart.yaml --cluster slurm --runs /shared/runs
      escala sweep status configs/sweep/quickstart.yaml --json
    """


def of_a_sweep(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what is asked of a sweep: they are the fields of `Wish`."""
    options = (
        click.argument("config", type=click.Path(path_type=Path)),
        set_option,
        runs_option,
        failed_option,
        n_convention_option,
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@of_a_sweep
@click.option("--dry-run", is_flag=True, help="Prepare the data, print the plan, and stop.")
def run(as_json: bool, **asked: Any) -> None:
    """Train every cell of the sweep CONFIG that is missing, fit the law, write the report.

    Running it again does only what is missing; interrupted at any time, it continues. Results are kept in
    RUNS/<sweep name>: ledger.jsonl, report/report.html, and a run directory for each cell.

    \b
    Examples:
      escala sweep run configs/sweep/quickstart.yaml
      escala sweep run configs/sweep/quickstart.yaml --set tokens=200k
      escala sweep run configs/sweep/quickstart.yaml --json | jq -r .report.html
    """
    from launch.sweep.execute.story import run_sweep

    _do(run_sweep, asked, as_json)


@click.command()
@cluster_option
@of_a_sweep
@at_most_option
@click.option("--dry-run", is_flag=True, help="Prepare the data, print the plan and what would be submitted, and stop.")
def submit(cluster: str, as_json: bool, **asked: Any) -> None:
    """Send every cell of the sweep CONFIG that is missing to a cluster, and return.

    Slurm gets one array, Kubernetes a JobSet for each cell. SSH hosts and this machine are driven from here, cell by
    cell, to the end. Cells that are done or diverged are left alone, failed ones are listed with their reason.

    \b
    Examples:
      escala sweep submit configs/sweep/quickstart.yaml --cluster slurm --runs /shared/runs --at-most 8
      escala sweep submit configs/sweep/quickstart.yaml --cluster slurm --json | jq -r '.cells[].job'
      escala sweep status configs/sweep/quickstart.yaml --runs /shared/runs
      escala sweep resume configs/sweep/quickstart.yaml --runs /shared/runs
    """
    from launch.sweep.execute.story import submit_sweep

    _do(lambda wish, console: submit_sweep(wish, cluster, console), asked, as_json)


@click.command()
@of_a_sweep
@at_most_option
def resume(as_json: bool, **asked: Any) -> None:
    """Go on with the sweep CONFIG where it was last started: on this machine or on its cluster.

    Takes in what has ended, starts what is missing, and once every cell has ended fits the law and writes the report.

    \b
    Examples:
      escala sweep resume configs/sweep/quickstart.yaml
      escala sweep resume configs/sweep/quickstart.yaml --failed
    """
    from launch.sweep.execute.story import resume_sweep

    _do(resume_sweep, asked, as_json)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@set_option
@runs_option
@json_option
def status(config: Path, assignments: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Say how far the sweep CONFIG is: the state, step and loss of each cell.

    \b
    Examples:
      escala sweep status configs/sweep/quickstart.yaml
      escala sweep status configs/sweep/quickstart.yaml --json | jq '.cells[].loss'
    """
    from launch.sweep.execute.status import sweep_status

    found = sweep_status(config, assignments, runs)
    if as_json:
        click.echo(to_json(found, indent=2))
        return
    for cell in found["cells"]:
        loss = f"loss {cell['loss']:.4f}" if isinstance(cell["loss"], int | float) else ""
        line = f"{cell['id']:<40} {cell['state']:<10} step {cell['step']}/{cell['steps'] or '?'} {loss}"
        click.echo(plain(f"{line} {cell['reason']}".rstrip()))
    if found["ledger_damaged_lines"]:
        click.echo(f"{found['ledger']}: {found['ledger_damaged_lines']} damaged lines are skipped")
    badly = "".join(f", {found[word]} {word}" for word in ("diverged", "failed", "dead") if found[word])
    click.echo(f"{found['done']} of {len(found['cells'])} cells done{badly}")


def _do(act: Callable[[Wish, Console], Result], asked: dict[str, Any], as_json: bool) -> None:
    """Do what is asked of a sweep, and print how it stands for scripts: standard output is theirs then.

    Raises EndedBadlyError where cells failed or diverged.
    """
    from launch.show.console import make_console
    from launch.sweep.execute.status import sweep_status
    from launch.sweep.execute.story import Wish

    wish = Wish(**asked)
    if as_json and wish.dry_run:
        raise UserError("--json tells what was done, and --dry-run does nothing: leave one of them out")
    with interrupts():
        result = act(wish, make_console(stderr=as_json))
    if as_json:
        found = sweep_status(wish.config, wish.assignments, wish.runs)
        click.echo(to_json({**found, **result.to_json()}, indent=2))
    if result.failure:
        raise EndedBadlyError(result.failure, result.exit_code)


__all__: list[str] = ["resume", "run", "status", "submit", "sweep"]
