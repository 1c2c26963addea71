"""`escala forecast`: write a prediction down before the run; `escala forecast score`: score it when the run lands."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np

from launch.commands.live_law import tell_curve, tell_final
from launch.commands.options import Size, family_option, json_option, refuse_idle, runs_option, set_option
from launch.commands.tables import parse_where, table_options
from launch.scaling.questions.forecast import Forecast, append, make_forecast, read
from launch.scaling.questions.forecast import score as score_all
from launch.scaling.questions.next_run import counted
from launch.scaling.questions.saved_fit import SavedFit, load_fit
from launch.scaling.report.model import interval
from launch.scaling.table.counting import counting_text
from launch.scaling.table.load import load
from launch.scaling.table.mapping import parse_map
from launch.scaling.table.rows import RowsAre
from launch.show.text import count
from launch.sweep.design.pending import pending_cells
from launch.watch.find_runs import find_run
from trainer.contract.errors import UserError
from trainer.contract.plain_text import plain
from trainer.contract.run_dir import utc_now

LEDGER, EXPECTED = Path("forecasts.jsonl"), Path("expected.json")
SEEN = "the fit has seen this run, by its name or its N and D: that tests nothing"
EPILOG = """\b
Examples:
  escala forecast --fit fit.json --params 1.3B --tokens 26B --name big
  escala forecast --fit fit.json --sweep ladder.yaml
  escala forecast score runs/ladder/ledger.jsonl
  escala forecast --curve configs/run/tiny.yaml --from runs/ladder/ledger.jsonl --out big.json
  escala forecast --final big
"""
SCORE_EPILOG = """\b
Example:
  escala forecast score runs/ladder/ledger.jsonl --json
"""


@click.group(invoke_without_command=True, epilog=EPILOG)
@click.option("--fit", "fit_path", type=click.Path(path_type=Path), help="Output of escala fit --json.")
@family_option
@click.option("--params", type=Size(), help="N of the run, counted as the fit counts it.")
@click.option("--tokens", type=Size(), help="D of the run.")
@click.option("--name", default="", help="Name of the run, to find it again; default: by N and D.")
@click.option("--sweep", "sweep_path", type=click.Path(path_type=Path), help="Predict every cell that has not run yet.")
@runs_option
@click.option("--ledger", default=LEDGER, show_default=True, type=click.Path(path_type=Path))
@click.option("--curve", type=click.Path(path_type=Path), help="Write the expected loss at each step of this run.")
@click.option("--final", metavar="RUN", help="Forecast the final loss of this run, a directory or a name.")
@click.option("--from", "finished", type=click.Path(path_type=Path), help="Ledger of the finished runs for these two.")
@click.option("--out", default=EXPECTED, show_default=True, type=click.Path(path_type=Path), help="Of --curve.")
@set_option
@json_option
@click.pass_context
def forecast(
    ctx: click.Context,
    curve: Path | None,
    final: str | None,
    finished: Path | None,
    out: Path,
    assignments: tuple[str, ...],
    fit_path: Path | None,
    family: str | None,
    params: float | None,
    tokens: float | None,
    name: str,
    sweep_path: Path | None,
    runs: Path,
    ledger: Path,
    as_json: bool,
) -> None:
    """Predict the loss of a run that has not been made, and write the prediction to a ledger.

    The ledger keeps the interval, the hash of the data and of the fit, and the time.
    """
    if ctx.invoked_subcommand is not None:
        refuse_idle([p.name or "" for p in ctx.command.params], f"before {ctx.invoked_subcommand!r}")
        return
    if curve is not None or final is not None:
        _live(curve, final, finished, fit_path, out, assignments, runs, as_json)
        return
    refuse_idle(["finished", "out", "assignments"], "without --curve or --final")
    if sweep_path is None:
        refuse_idle(["runs"], "without --sweep")
    else:
        refuse_idle(["params", "tokens", "name"], "with --sweep, whose cells say it")
    if fit_path is None:
        raise UserError("--fit is missing: the output of `escala fit TABLE --json` (or use `escala forecast score`)")
    fit = load_fit(fit_path, refuse=False, family=family)
    if fit.status == "refused" and len(fit.law.variables) > 1:
        load_fit(fit_path, family=family)  # says why
    text, time = fit_path.read_text(encoding="utf-8"), utc_now()
    wanted = [(name, params, tokens)] if sweep_path is None else _pending(sweep_path, runs, fit)
    made = [make_forecast(fit, text, time=time, name=n, N=size, D=length) for n, size, length in wanted]
    for one in made:
        append(ledger, one)
    _tell(made, fit, ledger, as_json=as_json, alone=sweep_path is None)


def _tell(made: list[Forecast], fit: SavedFit, ledger: Path, *, as_json: bool, alone: bool) -> None:
    for reason in fit.reasons:
        click.secho(plain(f"warning: the fit is {fit.status}: {reason}"), fg="yellow", err=True)
    for doubt in () if fit.drawn else fit.doubts:  # what is drawn for a decision has them among its reasons
        click.secho(plain(f"doubt: {doubt}"), fg="yellow", err=True)
    for one in made:
        if one.seen:
            click.secho(plain(f"warning: {one.name or one.id}: {SEEN}"), fg="yellow", err=True)
    if as_json:
        click.echo(json.dumps(asdict(made[0]) if alone else [asdict(one) for one in made]))
        return
    for one in made:
        ends = f", 95 % {interval(*one.interval, '.4f')}" if one.interval else " (the fit has no replicates)"
        click.echo(
            f"{one.name or one.id}: loss {one.loss:.4f} nats{ends}; perplexity {one.perplexity:.2f}; "
            f"{one.beyond} the largest run of the fit{_size_text(one)}"
        )
    click.echo(f"written to {ledger}, to be scored by escala forecast score TABLE --ledger {ledger} once it has run")


def _live(
    curve: Path | None,
    final: str | None,
    finished: Path | None,
    fit: Path | None,
    out: Path,
    assignments: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> None:
    """Answer --curve or --final: the live law."""
    if curve is not None and final is not None:
        raise UserError("--curve is of a run that has not started, --final of one under way: give one of them")
    refuse_idle(["family", "params", "tokens", "name", "sweep_path", "ledger"], "with --curve or --final")
    if curve is not None:
        refuse_idle(["runs"], "with --curve, whose finished runs --from names")
        tell_curve(curve, assignments, finished, fit, out, as_json)
    elif final is not None:
        refuse_idle(["out", "assignments"], "with --final, whose run has its configuration")
        tell_final(find_run(runs, final), finished, fit, as_json)


def _size_text(one: Forecast) -> str:
    known = [f"{name} {count(value)}" for name, value in (("N", one.N), ("D", one.D)) if value is not None]
    counting = counting_text(one.convention) if one.N is not None else ""
    return f" ({', '.join(known)}{counting and f'; {counting}'})" if known else ""


def _pending(sweep: Path, runs: Path, fit: SavedFit) -> list[tuple[str, float, float]]:
    """Return name, N as the fit counts it, and D of each cell that has not run."""
    cells = pending_cells(sweep, runs)
    if not cells:
        raise UserError(f"every cell of {sweep} has run: there is nothing to forecast")
    return [(c.name, float(counted(c.config.model, fit.convention)), float(c.tokens)) for c in cells]


@forecast.command(epilog=SCORE_EPILOG)
@table_options
@click.option("--ledger", default=LEDGER, show_default=True, type=click.Path(path_type=Path))
@json_option
def score(
    table: Path,
    mapping: str | None,
    where: tuple[str, ...],
    n_convention: str,
    drop_bad: bool,
    rows_are: RowsAre,
    ledger: Path,
    as_json: bool,
) -> None:
    """Compare the forecasts with the runs of TABLE that have come in since."""
    runs = load(table, parse_map(mapping), n_convention, where=parse_where(where), drop_bad=drop_bad, rows_are=rows_are)
    scores, waiting = score_all(list(read(ledger)), runs)
    if as_json:
        found = {"scores": [s.to_json() for s in scores], "waiting": [f.id for f in waiting]}
        click.echo(json.dumps(found | {"warnings": list(runs.warnings)}))
        return
    for s in scores:
        ends = "" if s.forecast.interval is None else f" 95 % {interval(*s.forecast.interval, '.4f')}"
        verdict = f"; {SEEN}" if s.forecast.seen else {None: "", True: ", inside", False: ", OUTSIDE"}[s.inside]
        label = s.forecast.name or s.forecast.id
        click.echo(
            f"{label}: forecast {s.forecast.loss:.4f} nats{ends}, measured {s.measured:.4f} (row {s.row}): "
            f"off by {s.error:+.2%}{verdict}; written {s.forecast.time}"
        )
    known = [s.inside for s in scores if s.inside is not None]
    if known:
        errors = np.mean([abs(s.error) for s in scores if not s.forecast.seen])
        click.echo(f"{sum(known)} of {len(known)} inside their interval; mean error {errors:.2%}")
    for warning in runs.warnings:
        click.secho(plain(f"warning: {warning}"), fg="yellow", err=True)
    for f in waiting:
        click.echo(f"{f.name or f.id}: no run yet (N {f.N:.3g}, D {f.D:.3g})" if f.N and f.D else f"{f.id}: no run yet")
