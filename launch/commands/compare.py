"""`escala compare`: is a change real, and how much compute is it worth?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from launch.commands.options import Positive, json_option, refuse_idle, runs_option
from launch.commands.tables import parse_where
from launch.scaling.compare.comparison import Comparison
from launch.scaling.compare.comparison import compare as compare_sides
from launch.scaling.compare.differences import COLUMNS, FOLLOW
from launch.scaling.compare.ladder_runs import rungs_of, seed_of
from launch.scaling.compare.power import power
from launch.scaling.compare.sides import Choice, Runs, one_side, read_ledger, settings_changed, two_sides
from launch.scaling.table.checks import names_text
from trainer.contract.errors import UserError
from trainer.contract.plain_json import to_json

SWEEPS = (".yaml", ".yml")
OF_TWO = ("variant_group", "worth", "change", "anyway", "out", "title")
EPILOG = """\b
Examples:
  escala compare runs/base runs/swiglu --change model.mlp
  escala compare configs/sweep/gate.yaml --variant qk_norm=true
  escala compare runs/families/ledger.jsonl --group-by kind --base transformer --variant lstm
  escala compare runs/base runs/swiglu --asymptote 1.69 --worth 1.05 --out report
  escala compare runs/base --power
"""


@click.command(epilog=EPILOG)
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("variant", type=click.Path(path_type=Path), required=False)
@click.option("--group-by", metavar="COLUMN", help="A column or setting that tells base and variant apart in a ledger.")
@click.option("--base", "base_group", metavar="NAME", help="Which runs are the base; default: those without a change.")
@click.option("--variant", "variant_group", metavar="NAME", help="Which runs are the variant, where there are several.")
@click.option("--where", multiple=True, metavar="COL=VALUE", help="Keep these rows only; repeatable.")
@click.option("--eval-set", metavar="NAME", help="Of the losses. [default: the first in the ledger]")
@click.option("--asymptote", type=Positive(), help="Loss that no compute goes below on this set, nats. [default: free]")
@click.option("--worth", type=Positive(), default=1.0, show_default=True, help="Reject what is worth less than this.")
@click.option(
    "--change", multiple=True, metavar="KEY", help="A setting that is the change; others that differ are named."
)
@click.option("--anyway", is_flag=True, help="Compare in spite of diverged runs and uneven tuning, and say so.")
@click.option("--power", "only_power", is_flag=True, help="Print which effects the ladder BASE could see at all.")
@runs_option
@json_option
@click.option("--out", type=click.Path(path_type=Path), help="Write report.html, report.md and a PNG there.")
@click.option("--title", default=None, help="Of the report.")
def compare(
    base: Path,
    variant: Path | None,
    group_by: str | None,
    base_group: str | None,
    variant_group: str | None,
    where: tuple[str, ...],
    eval_set: str | None,
    asymptote: float | None,
    worth: float,
    change: tuple[str, ...],
    anyway: bool,
    only_power: bool,
    runs: Path,
    as_json: bool,
    out: Path | None,
    title: str | None,
) -> None:
    """Say how many times the compute the ladder BASE needs for the losses of VARIANT, and whether to promote it.

    BASE and VARIANT are ledgers, or directories of sweeps. One ledger with both is told apart by --group-by, or by what
    its sweep changed; a sweep file stands for its ledger under --runs.
    """
    if worth < 1:
        raise UserError(f"--worth {worth:g}: a change that costs compute is worth nothing; give 1 or more")
    ledgers = [read_ledger(ledger_of(path, runs)) for path in (base, variant) if path is not None]
    choice = Choice(group_by, base_group, variant_group, parse_where(where), eval_set)
    if only_power:
        refuse_idle(OF_TWO, "with --power")
        if len(ledgers) > 1:
            raise UserError("--power is of one ladder: give the base alone")
        _tell_power(one_side(ledgers[0], choice), asymptote, as_json)
        return
    sides = two_sides(ledgers[0], ledgers[1] if len(ledgers) > 1 else None, choice)
    stated = [*change, *(settings_changed(*sides, group_by) if variant is None else ())]
    found = compare_sides(*sides, asymptote=asymptote, worth=worth, change=stated, anyway=anyway)
    _refuse_other_change(found, change)
    if as_json:
        from launch.scaling.compare.as_json import comparison_json

        click.echo(to_json(comparison_json(found), indent=2))
    else:
        from launch.scaling.report.console import comparison_text
        from launch.show.console import make_console

        make_console().print(comparison_text(found))
    if out is not None:
        from launch.scaling.report.comparison import comparison_report
        from launch.scaling.report.write import render

        paths = render(comparison_report(found, title or f"{found.variant.name} against {found.base.name}"), out)
        click.echo(f"written to {paths.html}", err=as_json)


def _refuse_other_change(found: Comparison, change: Sequence[str]) -> None:
    """Raise UserError where a setting that is said to be the change does not differ, as far as settings are known."""
    keys = [one.key for one in found.differences.found]
    settings = [key for key in keys if key not in (*COLUMNS, *FOLLOW)]
    if not (found.differences.configs or settings):
        return
    for key in change:
        if not any(other == key or other.startswith(f"{key}.") for other in keys):
            differ = f"they differ in {names_text(settings, letters=60)}" if settings else "no setting does"
            raise UserError(f"--change {key}: base and variant do not differ in it; {differ}")


def ledger_of(path: Path, runs: Path) -> Path:
    """Return the ledger that a path stands for: of a sweep file the one under `runs`."""
    if path.suffix not in SWEEPS:
        return path
    from launch.sweep.cells.config import load_sweep

    ledger = runs / load_sweep(path).name / "ledger.jsonl"
    if not ledger.exists():
        raise UserError(f"{path} has no ledger at {ledger}: train it first (escala sweep run {path})")
    return ledger


def _tell_power(side: Runs, asymptote: float | None, as_json: bool) -> None:
    """Print which multipliers the runs of one side could tell from 1."""
    ladder = rungs_of(side)
    losses = [{seed_of(row, side): float(row["loss"]) for row in rung.rows} for rung in ladder]
    found = power(losses, [rung.flops for rung in ladder], asymptote)
    if as_json:
        from launch.scaling.compare.as_json import power_json

        click.echo(to_json(power_json(found), indent=2))
        return
    from launch.scaling.report.console import power_text
    from launch.show.console import make_console

    make_console().print(power_text(found))
