"""`escala fit`: a law, its intervals and its certificate from a table of runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from launch.commands.options import Positive, json_option, refuse_idle
from launch.commands.question import question
from launch.commands.tables import drop_highest, drop_highest_option, parse_where, table_options
from launch.scaling.fit.large import LOG
from launch.scaling.fit.objective import Objective
from launch.scaling.fit.prepare import prepare
from launch.scaling.laws.given import parse_values
from launch.scaling.laws.registry import LAWS
from launch.scaling.other.families import Families, compare_families, with_exact_flops
from launch.scaling.other.isoflop import METHODS, fit_frontier, frontier_json
from launch.scaling.other.tuning import KNOBS, fit_tuning
from launch.scaling.questions.judged import Judged, judged
from launch.scaling.questions.questions import Deeper, deepen
from launch.scaling.table.clusters import clusters
from launch.scaling.table.load import load
from launch.scaling.table.mapping import parse_map
from launch.scaling.table.rows import RowsAre
from launch.scaling.table.seen import runs_of
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import BOOTSTRAP, SEED
from launch.scaling.trust.holdout import Chosen, choose_law, held_out
from launch.scaling.trust.residual_tests import doubts
from launch.scaling.trust.study import study
from launch.show.progress import shown
from trainer.contract.plain_json import to_json

if TYPE_CHECKING:
    from rich.console import RenderableType

OF_SURFACES = ("against", "cluster", "delta", "residual", "target", "hold_out", "counting")
OF_ONE_LAW = {"base": "data-constrained", "reference": "shared-exponents"}
EPILOG = """\b
Examples:
  escala fit runs/quickstart/ledger.jsonl --law power-N-floor
  escala fit table.csv --map N="Model Size",C="Training FLOP",loss=loss --drop-highest-loss 5
  escala fit table.csv --map N=params,D=tokens,loss="ln(ppl)" --bootstrap 4000 --json > fit.json
  escala fit table.csv --target 1e21 --cluster N --law chinchilla --hold-out
  escala fit table.csv --law chinchilla --against E=1.69,A=406.4,B=410.7,alpha=.34,beta=.28
  escala fit table.csv --map N=params,loss="ln(ppl)",group=family --law shared-exponents --reference transformer
  escala optimal --fit fit.json --flops 1e21
"""


@click.command(epilog=EPILOG)
@table_options
@click.option(
    "--law",
    default="auto",
    show_default=True,
    help=f"auto (the one that misses held-out budgets least), or one of: {', '.join((*LAWS, *METHODS, *KNOBS))}.",
)
@click.option("--base", metavar="E=..,A=..", help="data-constrained: the law without repetition; default: fitted.")
@click.option("--against", metavar="E=..,A=..", help="A published law: say how well it describes these runs.")
@drop_highest_option
@click.option(
    "--bootstrap",
    type=click.IntRange(min=0),
    default=BOOTSTRAP,
    show_default=True,
    help="Replicates for the intervals; 0: profiles.",
)
@click.option("--cluster", metavar="BY", help="Draw whole groups: N, D, C, trunk, seed, group.")
@click.option("--seed", default=SEED, show_default=True, help="Seed of the bootstrap.")
@click.option("--delta", default=1e-3, show_default=True, help="Threshold of Huber's function; inf: least squares.")
@click.option("--residual", type=click.Choice(["log", "loss"]), default="log", show_default=True)
@click.option(
    "--reference",
    metavar="GROUP",
    help="shared-exponents: the family that the others are compared with. [default: transformer, or the first]",
)
@click.option(
    "--target", type=Positive(), help="Budget in FLOPs for which decisions and their uncertainty are printed."
)
@click.option("--hold-out", is_flag=True, help="Fit every law to the smaller budgets, and print its error beyond them.")
@click.option("--counting", is_flag=True, help="Fit under every way to count N and C, and show how far exponents move.")
@json_option
@click.option("--out", type=click.Path(path_type=Path), help="Write the JSON to this file too.")
def fit(
    table: Path,
    mapping: str | None,
    where: tuple[str, ...],
    n_convention: str,
    drop_bad: bool,
    rows_are: RowsAre,
    law: str,
    base: str | None,
    against: str | None,
    drop_highest_loss: int,
    bootstrap: int,
    cluster: str | None,
    seed: int,
    delta: float,
    residual: str,
    reference: str | None,
    target: float | None,
    hold_out: bool,
    counting: bool,
    as_json: bool,
    out: Path | None,
) -> None:
    """Fit a scaling law to TABLE: a ledger, or any CSV, JSON lines or parquet file of runs.

    D follows from C = 6 N D when only two of the three are known. Unless --law names one, the largest budgets are
    held out and the law that misses them least is taken. The answer comes with a certificate, and is refused where the
    runs cannot identify it.
    """
    click.get_current_context().with_resource(shown(LOG))
    runs = load(
        table, parse_map(mapping), n_convention, where=parse_where(where), drop_bad=drop_bad, rows_are=rows_are,
        trials_of=KNOBS.get(law, ""),
    )  # fmt: skip
    runs = drop_highest(runs, drop_highest_loss)
    _refuse_idle_options(law)
    asked: dict[str, Any] = {"question": question(runs)}
    if law in METHODS or law in KNOBS:
        _answer_of_one_law(runs, law, bootstrap, seed, asked, as_json, out)
        return
    cost = Objective(delta, residual)
    chosen = choose_law(runs, cost) if law == "auto" else Chosen(law, held_out=held_out(runs, cost) if hold_out else ())
    prepared = prepare(chosen.law, runs, parse_values("--base", base), reference)
    groups = None if cluster is None else clusters(runs, cluster)
    result = study(
        prepared.table, prepared.law, cost=cost, bootstrap=bootstrap, seed=seed, cluster=groups, fits=chosen.fits
    )
    asked |= ({} if cluster is None else {"cluster": cluster}) | {"runs": runs_of(runs)} | chosen.to_json()
    published = parse_values("--against", against)
    families = compare_families(result, cost=cost, bootstrap=bootstrap, seed=seed, cluster=groups, target=target)
    if families is not None and result.fitted is not None:
        plain = Judged(result, doubts=tuple(doubts(result.fitted, result.table, cluster)))
        more = deepen(plain, target=None, counting=counting, against=published)
        _give_families(plain, more, families, asked, as_json, out)
        return
    decided = judged(result, chosen, target=target, cluster=cluster, seed=seed)
    more = deepen(decided, target=target, counting=counting, against=published)
    _give_surface(decided, more, chosen, asked, as_json, out)


def _give_surface(
    decided: Judged, more: Deeper, chosen: Chosen, asked: dict[str, Any], as_json: bool, out: Path | None
) -> None:
    """Answer for one law of all runs."""
    from launch.scaling.report.console import chosen_text, deeper_text, judged_text

    parts = [chosen_text(chosen), judged_text(decided, asked.get("cluster")), deeper_text(more)]
    _give(decided.to_json() | asked | more.to_json(), parts, as_json, out)
    law = decided.study.law
    askable = set(law.variables) <= {"N", "D", "C"}  # the others need columns that no command can be given
    if out is not None and not as_json and askable and decided.study.certificate.status != "refused":
        click.echo(f"next: escala {_next_question(law.variables)} --fit {out} ...")


def _give_families(
    plain: Judged, more: Deeper, families: Families, asked: dict[str, Any], as_json: bool, out: Path | None
) -> None:
    """Answer for several families: by one law, or where the runs reject that by a law for each."""
    from launch.scaling.report.console import deeper_text, families_text, judged_text

    result = plain.study
    if families.separate:
        reasons = (families.sentence, *result.certificate.reasons)
        result = replace(result, certificate=replace(result.certificate, status="refused", reasons=reasons))
        plain = replace(plain, study=result)
        more, shown = Deeper(), [families_text(families)]
    else:
        more = replace(more, behind=with_exact_flops(more.behind, result.table, more.reference))
        shown = [judged_text(plain, asked.get("cluster")), deeper_text(more), families_text(families)]
    _give(plain.to_json() | asked | more.to_json() | families.to_json(), shown, as_json, out)
    known = next((f for f in families.each if f.saved.status != "refused"), None)
    if out is not None and not as_json and known is not None:
        name = shlex.quote(known.name)
        click.echo(f"next: escala {_next_question(known.saved.law.variables)} --fit {out} --family {name} ...")


def _next_question(variables: tuple[str, ...]) -> str:
    return "optimal" if set(variables) == {"N", "D"} else "forecast"


def _answer_of_one_law(
    runs: Table, law: str, bootstrap: int, seed: int, asked: dict[str, Any], as_json: bool, out: Path | None
) -> None:
    """Answer for a law that is no surface: an approach to the frontier, or the law of a setting."""
    from launch.scaling.report.console import frontier_text, tuning_text

    rest = {"warnings": list(runs.warnings), "left_out": list(runs.without)} | asked
    if law in METHODS:
        frontier = fit_frontier(runs, law, bootstrap=bootstrap, seed=seed)
        _give(frontier_json(frontier) | rest, [frontier_text(frontier, runs)], as_json, out)
    else:
        found = fit_tuning(runs, law, bootstrap=bootstrap, seed=seed)
        _give(found.to_json() | rest, [tuning_text(found, runs)], as_json, out)


def _give(answer: dict[str, Any], parts: Sequence[RenderableType], as_json: bool, out: Path | None) -> None:
    """Print an answer as text or JSON, and write its JSON to `out`."""
    text = to_json(answer)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        click.echo(text)
        return
    from launch.show.console import make_console

    console = make_console()
    for part in parts:
        console.print(part)
    if out is not None:
        click.echo(f"written to {out}")


def _refuse_idle_options(law: str) -> None:
    """Raise `UserError` for options that were given and have no effect on this law."""
    for name, only in OF_ONE_LAW.items():
        if law != only:
            refuse_idle([name], f"on law {law!r}, only on {only}")
    if law in METHODS or law in KNOBS:
        refuse_idle(OF_SURFACES, f"on law {law!r}")
