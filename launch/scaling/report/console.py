"""The same findings for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from launch.scaling.compare.comparison import Comparison
from launch.scaling.compare.each import Judged as JudgedChange
from launch.scaling.compare.power import Power
from launch.scaling.laws.registry import find_law
from launch.scaling.other.changes import Changes
from launch.scaling.other.families import Families
from launch.scaling.other.family_laws import FamilyLadders, fit_families
from launch.scaling.other.isoflop import Frontier
from launch.scaling.other.ladder import Ladder, fit_ladder
from launch.scaling.other.tuning import TuningLaw
from launch.scaling.questions.judged import Judged, judged
from launch.scaling.questions.questions import Deeper
from launch.scaling.report.cells import cell_grid
from launch.scaling.report.changes import changes_grid
from launch.scaling.report.changes import headline as changes_headline
from launch.scaling.report.comparison import difference_lines, power_grid, rests_on, rung_grid, seed_lines
from launch.scaling.report.comparison import headline as comparison_headline
from launch.scaling.report.decisions import (
    against_line,
    behind_grid,
    counting_grid,
    families_grid,
    family_parameters,
    parts_grid,
    sensitivity_grid,
)
from launch.scaling.report.families import equal_size_grid, law_grid, needs_grid
from launch.scaling.report.families import headline as family_headline
from launch.scaling.report.hold_out_table import hold_out_grid
from launch.scaling.report.ladder import forecast_grids, headline
from launch.scaling.report.ladder import law_grid as ladder_law_grid
from launch.scaling.report.model import Grid, interval
from launch.scaling.table.families import families_of
from launch.scaling.table.table import Table
from launch.scaling.trust.holdout import Chosen, choose_law
from launch.scaling.trust.study import Study, study
from launch.show.console import make_console
from launch.show.text import count, flops_text

REPLICATES = 200  # of the bootstrap of a law that is only printed


def ladder_text(ladder: Ladder) -> Group:
    """Return cells, laws and forecasts as one printable thing."""
    parts: list[RichTable | Text] = [grid_text(cell_grid(ladder), "Cells")]
    parts += [grid_text(ladder_law_grid(ladder), "Laws")]
    parts += [grid_text(g, "Forecasts") for g in forecast_grids(ladder)]
    parts += [Text(line, style="bold") for line in headline(ladder)]
    parts += [Text(f"cannot tell: {reason}", style="yellow") for reason in ladder.cannot]
    parts += [Text(f"warning: {w}", style="yellow") for w in ladder.table.warnings]
    return Group(*parts)


def families_ladder_text(found: FamilyLadders) -> Group:
    """Return the comparison of families, at equal size and at equal loss, as one printable thing."""
    compared = found.at_equal_size
    parts: list[RichTable | Text] = []
    if compared is not None and compared.sizes:
        parts.append(grid_text(equal_size_grid(compared), "At equal size"))
    parts.append(grid_text(law_grid(found), "Laws"))
    if found.needs:
        parts.append(grid_text(needs_grid(found.needs, found.reference, found.formula), "At equal loss"))
    parts += [Text(line, style="bold") for line in family_headline(found)]
    parts += [Text(f"cannot tell: {reason}", style="yellow") for reason in found.cannot]
    parts += [Text(f"warning: {w}", style="yellow") for w in found.table.warnings]
    return Group(*parts)


def changes_text(found: Changes) -> Group:
    """Return what one-at-a-time changes did as one printable thing."""
    parts: list[RichTable | Text] = [grid_text(changes_grid(found), "Changes")]
    return Group(*parts, *(Text(line, style="bold") for line in changes_headline(found)))


def print_ladder(table: Table, console: Console | None = None) -> str | None:
    """Fit what the runs identify, a surface of N and D or one ladder, and print it.

    Return the simplest law of a ladder; of a surface None, for `escala fit` chooses its law itself.
    """
    console = console or make_console()
    chosen = choose_law(table)
    law = find_law(chosen.law)
    if (not chosen.held_out or len(law.variables) == 1) and len(families_of(table)) > 1:
        console.print(families_ladder_text(fit_families(table)))
        return "shared-exponents"
    if not chosen.held_out or len(law.variables) == 1:
        ladder = fit_ladder(table)
        console.print(ladder_text(ladder))
        return f"power-{ladder.variable}"
    console.print(chosen_text(chosen))
    console.print(judged_text(judged(study(table, law, bootstrap=REPLICATES, fits=chosen.fits), chosen)))
    return None


def grid_text(grid: Grid, title: str | None = None) -> RichTable:
    """Return a grid as a table for the terminal. A title longer than the table would be broken: print it above."""
    shown = RichTable(title=title, title_justify="left", caption=grid.caption or None, caption_justify="left")
    for k, name in enumerate(grid.header):
        shown.add_column(name, justify="left" if k == 0 else "right", no_wrap=k == 0)
    for row in grid.rows:
        shown.add_row(*[Text(cell) for cell in row])
    return shown


VERDICT_STYLE = {"promote": "bold green", "reject": "bold red", "cannot tell": "bold yellow"}


def comparison_text(found: Comparison) -> Group:
    """Return a comparison of two ladders: what differs first, then the numbers, the verdict and what it rests on."""
    verdict, *more = comparison_headline(found)
    accident = bool(found.differences.of("beside"))
    differ = [
        Text(line, style="yellow" if accident and k == 0 else "") for k, line in enumerate(difference_lines(found))
    ]
    return Group(
        *differ, grid_text(rung_grid(found)), Text(verdict, style=VERDICT_STYLE[found.verdict.word]),
        *map(Text, more), *(Text(line, style="dim") for line in rests_on(found)),
    )  # fmt: skip


def judged_changes_text(found: Sequence[JudgedChange]) -> Group:
    """Return every change of a sweep against its base, or why it was not compared."""
    parts: list[RenderableType] = []
    for one in found:
        parts.append(Text(f"\n{one.change} against the base", style="bold"))
        told = one.comparison and comparison_text(one.comparison)
        parts.append(told or Text(f"not compared: {one.problem}", style="yellow"))
    return Group(*parts)


def power_text(found: Power) -> Group:
    """Return which effects a ladder could see, and the noise of its seeds."""
    grid = power_grid(found)
    return Group(grid_text(replace(grid, caption="")), Text(grid.caption), *map(Text, seed_lines(found)))


def judged_text(decided: Judged, cluster: str | None = None) -> Group:
    """Return a fit, its decision and the grade of that for the terminal."""
    parts: list[RenderableType] = [law_text(decided.study, cluster)]
    if decided.decision is not None:
        parts.append(grid_text(parts_grid(decided.decision), "Decision"))
    parts += grade_text(decided.study)
    if decided.decision is None:
        parts += [Text(f"doubt: {d.sentence}", style="yellow") for d in decided.doubts]
    return Group(*parts)


STATUS_STYLE = {"certified": "bold green", "weak": "bold yellow", "refused": "bold red"}


def grade_text(result: Study) -> list[Text]:
    """Return the grade with its reasons, which parameters are identified, and what was noticed about the table."""
    certificate = result.certificate
    parts = [Text(certificate.status.upper(), style=STATUS_STYLE[certificate.status])]
    parts += [Text(f"- {reason}") for reason in certificate.reasons]
    if line := certificate.identified(result.law):
        parts.append(Text(line))
    return parts + _remarks(result.table)


def law_text(result: Study, cluster: str | None = None) -> Group:
    """Return a law with its parameters and how its optimum was found."""
    certificate, intervals, fitted = result.certificate, result.intervals(), result.fitted
    if fitted is None:
        return Group()
    rows = [
        [name, f"{value:.6g}", interval(*intervals[name], ".4g") if name in intervals else "-"]
        for name, value in fitted.values.items()
    ]
    by = "" if cluster is None else f" by {cluster}"
    how = f"bootstrap{by}" if fitted.draws is not None else "profile"
    counting = f"; {result.table.counting}" if result.table.counting and "N" in result.law.variables else ""
    parts: list[RichTable | Text] = [
        Text(f"{result.law.name}: {result.law.formula}{counting}", style="italic"),
        grid_text(Grid(["parameter", "value", f"95 % ({how})"], rows)),
    ]
    if (exponent := result.exponent()) is not None:
        a, around = exponent
        ends = "" if around is None else f", 95 % {interval(*around)}"
        parts.append(Text(f"N* ~ C^a, a = {a:.4f}{ends}, at the largest budget"))
    parts.append(
        Text(
            f"objective {fitted.objective:.10g} over {len(result.table)} runs; "
            f"{certificate.share_of_starts:.0%} of the starts agree, gradient {certificate.gradient_norm:.1e}, "
            f"condition {certificate.condition:.1f}; {result.seconds:.2f} s"
        )
    )
    return Group(*parts)


def chosen_text(chosen: Chosen) -> Group:
    """Return what was held out, and why the law was chosen where nobody named one."""
    parts: list[RichTable | Text] = []
    if chosen.held_out:
        parts.append(grid_text(hold_out_grid(chosen.held_out), "Held-out larger budgets"))
    if chosen.why:
        parts.append(Text(f"{chosen.law}: {chosen.why}"))
    return Group(*parts)


def frontier_text(frontier: Frontier, table: Table) -> Group:
    """Return the optima of all budgets and the power law through them."""
    ends = "" if frontier.interval is None else f", 95 % of the exponent {interval(*frontier.interval)}"
    line = f"{frontier.method}: N* = {frontier.coefficient:.4g} C^{frontier.exponent:.4f}{ends}"
    rows = [[flops_text(o.flops), count(o.N), f"{o.loss:.4f}"] for o in frontier.optima]
    line += f"; {table.counting}" if table.counting else ""
    parts: list[RichTable | Text] = [Text(line), grid_text(Grid(["C", "N*", "loss"], rows))]
    parts += [Text(f"left out: {reason}", style="yellow") for reason in frontier.skipped]
    return Group(*parts, *_remarks(table))


def tuning_text(found: TuningLaw, table: Table) -> Group:
    """Return the law of a setting, that of the other one where both vary, the cost of following it, and the windows."""
    fixed = f" {found.fixed}" if found.fixed else ", from one bowl in both settings"
    parts: list[RichTable | Text] = [
        Text(f"{found.formula}{fixed}: {found.num_rows} trials in {found.num_cells} cells")
    ]
    parts.append(grid_text(setting_grid(found)))
    parts += [Text(found.cost.sentence), grid_text(window_grid(found), "Windows")]
    parts += [Text(f"weak: {reason}", style="yellow") for reason in found.reasons]
    return Group(*parts, *_remarks(table))


def setting_grid(found: TuningLaw) -> Grid:
    """Return the coefficient and powers of each setting's law."""
    rows = [
        [
            f"{law.column}*",
            name,
            f"{value:.4g}",
            interval(*law.intervals[name], ".4g") if name in law.intervals else "-",
        ]
        for law in (found.law, found.other)
        if law is not None
        for name, value in law.values.items()
    ]
    return Grid(["setting", "parameter", "value", "95 %"], rows)


def window_grid(found: TuningLaw) -> Grid:
    """Return the powers from trials within each distance of the best loss."""
    names = list(found.windows[0][2])
    rows = [
        [f"{window:.1%}" + (" (taken)" if window == found.window else ""), str(rows), *(f"{p[n]:.3f}" for n in names)]
        for window, rows, p in found.windows
    ]
    caption = "Taken: the widest window of the loss in which no narrower one fits better."
    return Grid(["loss above the best", "trials", *names], rows, caption)


def families_text(found: Families) -> Group:
    """Return whether families share exponents, and each one's law: its parameters too where it has a fit of its own."""
    parts: list[RichTable | Text] = [Text(found.sentence, style="yellow" if found.separate else "")]
    parts += [grid_text(family_parameters(found), "Each family")] if found.separate else []
    return Group(*parts, grid_text(families_grid(found), "Allocation of each family"))


def _remarks(table: Table) -> list[Text]:
    notes = [Text(f"note: {note}") for note in table.notes]
    return notes + [Text(f"warning: {w}", style="yellow") for w in table.warnings]


def deeper_text(more: Deeper) -> Group:
    """Return what was asked beyond the fit itself."""
    parts: list[RichTable | Text] = []
    if more.against is not None:
        parts.append(Text(against_line(more.against)))
    if more.sensitivity is not None:
        parts.append(grid_text(sensitivity_grid(more.sensitivity), "What it rests on"))
    if more.behind:
        parts.append(grid_text(behind_grid(more.behind, more.reference), "Families at equal loss"))
    if more.counting:
        parts.append(grid_text(counting_grid(more.counting), "Counting"))
    return Group(*parts)
