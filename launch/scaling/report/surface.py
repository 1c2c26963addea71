"""The sections of a report about runs that vary in N and in D."""

from __future__ import annotations

import numpy as np

from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.other.isoflop import METHODS, exponents
from launch.scaling.questions.conventions import budget_exponent, count_every_way
from launch.scaling.questions.next_run import decide
from launch.scaling.questions.sensitivity import sensitivity
from launch.scaling.report import surface_figures as draw
from launch.scaling.report.allocation_figure import allocation_figures, allocations
from launch.scaling.report.analysis import REPLICATES, Surface
from launch.scaling.report.checklist import Answers
from launch.scaling.report.decisions import (
    counted_estimate,
    counting_grid,
    decision_grid,
    ends,
    parameter_text,
    sensitivity_grid,
)
from launch.scaling.report.figures import compute
from launch.scaling.report.isoflop_figure import Curve, isoflop_curves, isoflops
from launch.scaling.report.model import Figure, Grid, Section, interval
from launch.scaling.report.runs import runs_section
from launch.scaling.report.trust import hold_out_section, profile_figure, shares_text
from launch.scaling.table.checks import rows_text
from launch.scaling.table.table import Table
from launch.scaling.trust.lack_of_fit import lack_of_fit
from launch.scaling.trust.study import Study
from launch.show.text import count, flops_text

SMALLEST = 1e-300  # an end of a profile that reaches as far is 0, or infinite
SENSITIVE = 10.0  # the budget at which laws are compared, over the largest run
BEYOND = (1.0, 10.0, 100.0)  # budgets of the allocation table, over the largest run


def headline(s: Surface) -> list[str]:
    """Say which law, how far it may be trusted, and what it says about ten times the largest budget."""
    table = s.table
    lines = [
        f"{len(table)} runs, {count(table.N.min())} to {count(table.N.max())} parameters, {count(table.D.min())} to "
        f"{count(table.D.max())} tokens, up to {flops_text(float(table.C.max()))} FLOPs. Law: {s.best.law.formula}, "
        f"{s.best.certificate.status}."
    ]
    if s.held:
        chosen = next((h for h in s.held if h.law == s.best.law.name), s.held[0])
        lines.append(
            f"On larger budgets that its fits did not see, {chosen.law} was off by {chosen.mean:.2%} on average, "
            f"up to {chosen.distance.max():.3g} times the largest run that it had seen."
        )
    if s.refused:
        lines.append(f"No best size is given for any budget: {s.best.certificate.reasons[0]}.")
    else:
        far = decide(s.saved, 10 * float(table.C.max()))
        lines.append(
            f"At ten times the largest budget, {flops_text(far.flops)} FLOPs: {counted_estimate(far.N)} parameters on "
            f"{counted_estimate(far.D)} tokens, loss {far.loss.value:.3f}{ends(far.loss, '.3f')} nats per token."
        )
    return lines


def answers(s: Surface) -> Answers:
    """Return what the checklist asks of the fit."""
    c, held = s.best.certificate, next((h for h in s.held if h.law == s.best.law.name), None)
    validated = "not: too few runs to hold any out"
    if held is not None:
        validated = (
            f"the smaller {shares_text()} of the runs are fitted and the others forecast: mean error "
            f"{held.mean:.2%}, up to {held.distance.max():.3g} times the compute"
        )
    return Answers(
        formula=s.best.law.formula,
        source=s.best.law.source,
        parameters=", ".join(s.best.law.params),
        objective=f"Huber's function ({s.fitted.cost.delta:g}) of log loss, damped Newton with analytic derivatives",
        starts=f"a grid of exponents by variable projection; {c.share_of_starts:.0%} meet in the optimum",
        intervals=f"95 % by {REPLICATES} bootstrap replicates of the rows, and by profile likelihood; {c.status}",
        held_out=validated,
    )


def surface_sections(s: Surface) -> list[Section]:
    """Return the sections in reading order."""
    sections = [_law(s), _allocation(s)]
    if s.held:
        sections.append(hold_out_section(s.held, [f"The law is {s.chosen.law}: {s.chosen.why}."]))
    sections += [_certificate(s), _residuals(s), runs_section(s.table, s.fitted), _approaches(s)]
    if len(s.table.conventions) > 1:
        sections.append(_conventions(s.table))
    return sections


def _law(s: Surface) -> Section:
    charts = [
        Figure(
            "loss_against_compute",
            _frontier_caption(s),
            lambda ax: compute(ax, s.table) if s.refused else draw.frontier(ax, s.table, s.fitted),
        ),
        Figure(
            "perplexity_against_parameters",
            "Perplexity against parameters, coloured by tokens. Lines: the law at the least, median and largest D.",
            lambda ax: draw.perplexity(ax, s.table, s.fitted),
        ),
    ]
    curves, text = isoflop_curves(s.table), []
    if curves:
        charts.append(
            Figure(
                "isoflop_curves",
                _isoflop_caption(s, curves),
                lambda ax: isoflops(ax, curves, s.fitted, optima=not s.refused),
            )
        )
    else:
        text.append(
            "No IsoFLOP curves: no two budgets have runs of four sizes, nor three sizes with lengths around them."
        )
    return Section("The law", text, charts, [_parameters(s.best)])


def _isoflop_caption(s: Surface, curves: list[Curve]) -> str:
    shown = "Loss against size at equal compute. Lines: the law."
    points = "" if curves[0].measured else " Open circles: losses interpolated between the lengths of one size."
    if s.refused:
        return f"{shown} No optimum is marked: the certificate is refused.{points}"
    return (
        f"The best size grows as C^{s.exponent:.2f} by the law. {shown} Crosses: its optimum at a budget, "
        f"where it lies among the sizes.{points}"
    )


def _frontier_caption(s: Surface) -> str:
    if s.refused:
        return (
            "Loss against training compute, and the lowest loss up to each budget. The law's frontier is not drawn: "
            "its certificate is refused."
        )
    spent = 6 * s.table.N * s.table.D
    first, last = float(spent.min()), 10 * float(spent.max())
    high, low = (float(s.saved.allocation(flops)[1][0]) for flops in (first, last))
    return (
        f"The lowest loss falls from {high:.2f} at {flops_text(first)} FLOPs to {low:.2f} at {flops_text(last)}. Dots: "
        "runs; line: the lowest loss that the law allows at each budget, with its 95 % band."
    )


def _parameters(result: Study) -> Grid:
    assert result.fitted is not None
    intervals, profiles = result.intervals(), result.certificate.intervals(result.law)
    rows = [
        [
            name,
            parameter_text(name, value),
            _pair(intervals.get(name)),
            _pair(profiles.get(name)),
        ]
        for name, value in result.fitted.values.items()
    ]
    if (exponent := result.exponent()) is not None:
        rows.append(["N* ~ C^a: a", parameter_text("a", exponent[0]), _pair(exponent[1]), "-"])
    caption = (
        f"{result.law.formula} ({result.law.source}). Huber {result.fitted.cost.delta:g} on log loss, objective "
        f"{result.fitted.objective:.6g}; {REPLICATES} replicates by row."
        + (f" {result.table.counting}." if result.table.counting else "")
    )
    return Grid(["parameter", "value", "95 % bootstrap", "95 % profile"], rows, caption)


def _allocation(s: Surface) -> Section:
    if s.refused:
        return Section("Allocation", ["Refused: " + reason for reason in s.best.certificate.reasons])
    saved, largest = s.saved, float(s.table.C.max())
    text = (
        "The intervals hold the scatter of the runs, the choice of the law, and leaving one size or budget out. The "
        "second table asks each law that held-out budgets cannot tell apart, and the fit without one group at a time."
    )
    grids = [decision_grid([decide(saved, factor * largest) for factor in BEYOND])]
    if s.judged.drawn is not None:
        grids.append(sensitivity_grid(sensitivity(s.judged.drawn, SENSITIVE * largest)))
    charts = allocation_figures(allocations(s.table, s.fitted, saved, [h.law for h in s.held]))
    return Section("Allocation", [text], charts, grids)


def _certificate(s: Surface) -> Section:
    c = s.best.certificate
    text = [
        f"{c.status.capitalize()}: {c.share_of_starts:.0%} of the starts meet in the optimum, gradient "
        f"{c.gradient_norm:.1e}, condition number {c.condition:.3g}.",
        *c.reasons,
        *_outliers(s),
    ]
    test = lack_of_fit(s.fitted)
    if test is not None:
        text.append(
            f"Repeated cells: seed noise {test.seed_sd:.2%}, misfit {test.misfit_sd:.2%} of the loss "
            f"(F = {test.f_ratio:.3g}, p = {test.p_value:.2g})."
        )
    if not c.profiles:
        return Section("Certificate", text)
    chart = profile_figure(c, len(s.table) - s.fitted.num_params, s.best.law.positive)
    return Section("Certificate", text, [chart])


def _outliers(s: Surface) -> list[str]:
    """Name the rows that the law misses by far: diverged runs, or another recipe."""
    far, limit = draw.far_off(s.fitted)
    if not far.any():
        return []
    rows, verb = rows_text(s.table.row[far]), "lies" if far.sum() == 1 else "lie"
    return [
        f"{rows.capitalize()} {verb} more than {draw.OUTLIER} robust standard deviations ({limit:.1%}) off the law: "
        "look at these runs, or leave the highest losses out (--drop-highest-loss)."
    ]


def _residuals(s: Surface) -> Section:
    chart = Figure(
        "residuals",
        f"Half of the runs lie within {float(np.median(np.abs(s.fitted.residuals))):.2%} of the law. Residuals of the "
        "log loss against N, D and C: any trend is drift that the law misses."
        + (" Triangles: runs that lie far beyond the edge." if draw.far_off(s.fitted)[0].any() else ""),
        lambda axes: draw.residuals(axes, s.table, s.fitted),
        panels=("N", "D", "C"),
    )
    return Section("Residuals", [], [chart])


def _approaches(s: Surface) -> Section:
    found = exponents(s.table)
    rows = [[m, "-" if found[m] is None else f"{found[m]:.3f}"] for m in METHODS]
    studies = {s.chinchilla.law.name: s.chinchilla, s.best.law.name: s.best}
    rows += [
        [name, "refused" if r.certificate.status == "refused" else f"{budget_exponent(r.fitted):.3f}"]
        for name, r in studies.items()
        if r.fitted is not None
    ]
    text = (
        "The exponent a of N* ~ C^a by each approach. The parabola is biased on wide grids and the envelope by the "
        "choice of sizes (arXiv 2603.22339); the surface fits use every run."
    )
    return Section("Approaches", [text], [], [Grid(["approach", "a"], rows)])


def _conventions(table: Table) -> Section:
    text = (
        "The same runs with N and C counted in each way: how far the exponents move is a choice, not a finding. C "
        "enters through the budget, so it moves a and not the law."
    )
    return Section("Counting", [text], [], [counting_grid(count_every_way(table, CHINCHILLA))])


def _pair(pair: tuple[float, float] | None) -> str:
    if pair is None:
        return "-"
    low, high = pair
    return interval(0.0 if 0 < low < SMALLEST else low, float("inf") if high > 1 / SMALLEST else high, ".4g")
