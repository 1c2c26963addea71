"""`escala sweep tune`: the best learning rate at a few sizes of a sweep, and its law as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.commands.options import json_option, runs_option, set_option
from trainer.contract.errors import UserError
from trainer.contract.plain_json import to_json

if TYPE_CHECKING:
    from launch.sweep.execute.tune import Tuned


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--sizes", metavar="1,2,4", help="By their place in order of FLOPs; default: smallest two and a middle.")
@click.option("--budget", default="25%", show_default=True, help="Most FLOPs, as a share of the sweep's.")
@click.option(
    "--runs-per-size", type=click.IntRange(min=3), default=5, show_default=True, help="Most runs at each size."
)
@click.option("--failed", is_flag=True, help="Start runs again that failed before.")
@click.option("--dry-run", is_flag=True, help="Print the first runs and the budget, and stop.")
@set_option
@runs_option
@json_option
def tune(
    config: Path,
    sizes: str | None,
    budget: str,
    runs_per_size: int,
    failed: bool,
    dry_run: bool,
    assignments: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> None:
    """Find the best learning rate at a few sizes of the sweep CONFIG, and write its law as a recipe.

    Rates are bracketed in factors, further ones are tried past an edge, and a parabola in the logarithm gives the best.
    Running it again goes on where it was. The recipe is RUNS/<sweep name>/recipe.yaml.

    \b
    Examples:
      escala sweep tune ladder.yaml --dry-run
      escala sweep tune ladder.yaml
      escala sweep tune ladder.yaml --sizes 1,2,3,4 --budget 60%
      escala sweep run ladder.yaml --set optim.recipe=runs/ladder/recipe.yaml
    """
    from launch.commands.sweep import interrupts
    from launch.show.console import make_console
    from launch.sweep.execute.tune import TuneWish, tune_sweep

    wish = TuneWish(config, assignments, runs, _places(sizes), _share(budget), runs_per_size, failed, dry_run)
    if as_json and dry_run:
        raise UserError("--json tells what was done, and --dry-run does nothing: leave one of them out")
    with interrupts():
        tuned = tune_sweep(wish, make_console(stderr=as_json))
    if tuned is None:
        return
    if as_json:
        click.echo(to_json({"path": str(tuned.path), **tuned.recipe.model_dump(mode="json")}, indent=2))
    else:
        _show(tuned, config)


def _show(tuned: Tuned, config: Path) -> None:
    recipe = tuned.recipe
    for size in recipe.lr.sizes:
        low, high = size.interval
        said = f"NOT TUNED: {size.problem}" if size.problem else f"95 % {low:.3g} to {high:.3g}"
        click.echo(f"N {size.N:>10,.0f}  D {size.D:>13,.0f}  best lr {size.best:.3g}  ({said}; {size.runs} runs)")
    click.echo(f"lr = {recipe.lr.formula}")
    for name, (low, high) in recipe.lr.intervals.items():
        click.echo(f"  power of {name}: {recipe.lr.powers[name]:.3f}, 95 % {low:.3f} to {high:.3f}")
    click.echo(f"  {recipe.lr.curvature}")
    click.echo(f"tuning cost {recipe.flops:.3g} FLOPs in {tuned.runs} runs, {recipe.share:.1%} of the sweep's")
    if tuned.stopped:
        click.echo(tuned.stopped)
    click.echo(f"recipe  {tuned.path}\nnext    escala sweep run {config} --set optim.recipe={tuned.path}")


def _places(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--sizes {text}: give places in order of FLOPs, such as 1,2,4") from None


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < float("inf"):
        raise UserError(f"--budget {text}: give a share of the sweep's FLOPs above 0, such as 25% or 0.25")
    return share
