"""`escala sweep tune`: the best learning rate, batch and weight decay at a few sizes of a sweep, as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from launch.commands.interrupts import interrupts
from launch.commands.options import json_option, runs_option, set_option
from trainer.contract.errors import UserError, did_you_mean
from trainer.contract.plain_json import to_json

if TYPE_CHECKING:
    from launch.scaling.tune.knobs import Knob
    from launch.sweep.execute.tune import Tuned
    from trainer.config.recipe import RecipeLaw


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--knobs", default="lr", show_default=True, metavar="lr,batch,weight_decay", help="What is tuned.")
@click.option("--sizes", metavar="1,2,4", help="By their place in order of FLOPs; default: smallest two and a middle.")
@click.option("--budget", default="25%", show_default=True, help="Most FLOPs, as a share of the sweep's.")
@click.option(
    "--runs-per-size",
    type=click.IntRange(min=3),
    default=5,
    show_default=True,
    help="Most runs at a size, for each knob.",
)
@click.option("--cluster", metavar="NAME", help="A file of configs/cluster, by name, or any YAML; default: here.")
@click.option("--failed", is_flag=True, help="Start runs again that failed before.")
@click.option("--dry-run", is_flag=True, help="Print the first runs and the budget, and stop.")
@set_option
@runs_option
@json_option
def tune(
    config: Path,
    knobs: str,
    sizes: str | None,
    budget: str,
    runs_per_size: int,
    cluster: str | None,
    failed: bool,
    dry_run: bool,
    assignments: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> None:
    """Find the best learning rate at a few sizes of the sweep CONFIG, and write its law as a recipe.

    Values are bracketed in factors, further ones are tried past an edge, and a parabola in the logarithm gives the
    best. Batch and weight decay are tuned after the learning rate, each with what was tuned before it. Running it again
    goes on where it was. The recipe is RUNS/<sweep name>/recipe.yaml.

    \b
    Examples:
      escala sweep tune ladder.yaml --dry-run
      escala sweep tune ladder.yaml
      escala sweep tune ladder.yaml --sizes 1,2,3,4 --budget 60%
      escala sweep tune ladder.yaml --knobs lr,batch,weight_decay
      escala sweep tune ladder.yaml --cluster slurm --runs /shared/runs
      escala sweep run ladder.yaml --set optim.recipe=runs/ladder/recipe.yaml
    """
    from launch.show.console import make_console
    from launch.sweep.execute.tune import TuneWish, tune_sweep

    asked = _knobs(knobs), cluster
    wish = TuneWish(config, assignments, runs, _places(sizes), _share(budget), runs_per_size, failed, dry_run, *asked)
    if as_json and dry_run:
        raise UserError("--json tells what was done, and --dry-run does nothing: leave one of them out")
    with interrupts():
        tuned = tune_sweep(wish, make_console(stderr=as_json))
    if tuned is None:
        return
    if as_json:
        left_out = {"no_law": tuned.no_law, "stopped": tuned.stopped}
        click.echo(to_json({"path": str(tuned.path), **left_out, **tuned.recipe.model_dump(mode="json")}, indent=2))
    else:
        _show(tuned, config)


def _show(tuned: Tuned, config: Path) -> None:
    recipe = tuned.recipe
    for knob, law in recipe.laws.items():
        _show_law(knob, law)
    click.echo(f"tuning cost {recipe.flops:.3g} FLOPs in {tuned.runs} runs, {recipe.share:.1%} of the sweep's")
    for line in (*tuned.no_law, *tuned.stopped):
        click.echo(line)
    click.echo(f"recipe  {tuned.path}\nnext    escala sweep run {config} --set optim.recipe={tuned.path}")


def _show_law(knob: str, law: RecipeLaw) -> None:
    for size in law.sizes:
        low, high = size.interval
        said = f"NOT TUNED: {size.problem}" if size.problem else f"95 % {low:.3g} to {high:.3g}"
        at = f"  batch {size.batch:,.0f}" if "batch" in law.powers else ""
        best = f"{size.best:,.0f}" if knob == "batch" else f"{size.best:.3g}"
        click.echo(f"N {size.N:>10,.0f}  D {size.D:>13,.0f}{at}  best {knob} {best}  ({said}; {size.runs} runs)")
    click.echo(f"{knob} = {law.formula}")
    for name, power in law.powers.items():
        said = "by the rule" if name not in law.intervals else "95 % {:.3f} to {:.3f}".format(*law.intervals[name])
        click.echo(f"  power of {name}: {power:.3f}, {said}")
    click.echo(f"  {law.curvature}")


def _knobs(text: str) -> tuple[Knob, ...]:
    from launch.scaling.tune.knobs import KNOBS

    named = [name.strip() for name in text.split(",")]
    if unknown := [name for name in named if name not in KNOBS]:
        raise UserError(f"--knobs: there is no knob {unknown[0]!r}{did_you_mean(unknown[0], KNOBS)}")
    return tuple(knob for knob in KNOBS if knob in named)


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
