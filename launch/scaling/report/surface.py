"""The sections of a report about runs that vary in N and in D."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.allocate import log_optimal_n
from launch.scaling.checks import rows_text
from launch.scaling.counting import count_every_way
from launch.scaling.decide import decide
from launch.scaling.fit import Fitted
from launch.scaling.holdout import Chosen, HoldOut, choose_law
from launch.scaling.isoflop import METHODS, exponents
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import find_law
from launch.scaling.replicates import lack_of_fit
from launch.scaling.report import surface_figures as draw
from launch.scaling.report.checklist import Answers
from launch.scaling.report.decisions import (
    counted_estimate,
    counting_grid,
    decision_grid,
    ends,
    parameter_text,
    sensitivity_grid,
)
from launch.scaling.report.isoflop_figure import Curve, isoflop_curves, isoflops
from launch.scaling.report.model import Figure, Grid, Section, count, interval
from launch.scaling.report.trust import hold_out_section, profile_figure, shares_text
from launch.scaling.saved import SavedFit, saved_fit
from launch.scaling.sensitivity import sensitivity
from launch.scaling.study import Study, study
from launch.scaling.table import Table
from launch.text import flops_text

BOOTSTRAP = 400
SENSITIVE = 10.0  # the budget at which laws are compared, over the largest run
BEYOND = (1.0, 10.0, 100.0)  # budgets of the allocation table, over the largest run


@dataclass(frozen=True)
class Surface:
    """Everything that the sections need, computed once."""

    table: Table
    best: Study  # the law that held-out budgets chose
    chinchilla: Study
    chosen: Chosen  # why it is the best, and what each law missed

    @property
    def held(self) -> tuple[HoldOut, ...]:
        return self.chosen.held_out

    @property
    def fitted(self) -> Fitted:
        assert self.best.fitted is not None
        return self.best.fitted


def analyse(table: Table, *, seed: int = 0) -> Surface | None:
    """Fit the laws of N and D; None where the runs do not identify one."""
    if not table.has("N", "D", "C"):
        return None
    chinchilla = study(table, CHINCHILLA, bootstrap=BOOTSTRAP, seed=seed)
    if chinchilla.fitted is None or chinchilla.fitted.draws is None:
        return None
    chosen = choose_law(table)
    best = chinchilla
    if chosen.law != CHINCHILLA.name:
        best = study(table, find_law(chosen.law), bootstrap=BOOTSTRAP, seed=seed)
    return Surface(table, best, chinchilla, chosen)


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
    if s.best.certificate.status != "refused":
        far = decide(_saved(s), 10 * float(table.C.max()))
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
        intervals=f"95 % by {BOOTSTRAP} bootstrap replicates of the rows, and by profile likelihood; {c.status}",
        held_out=validated,
    )


def surface_sections(s: Surface) -> list[Section]:
    """Return the sections in reading order."""
    sections = [_law(s), _allocation(s)]
    if s.held:
        sections.append(hold_out_section(s.held, [f"{s.chosen.law}: {s.chosen.why}."]))
    sections += [_certificate(s), _residuals(s), _approaches(s)]
    if len(s.table.conventions) > 1:
        sections.append(_conventions(s.table))
    return sections


def _law(s: Surface) -> Section:
    charts = [
        Figure(
            "loss_against_compute",
            _frontier_caption(s),
            lambda ax: draw.frontier(ax, s.table, s.fitted),
        ),
        Figure(
            "perplexity_against_parameters",
            "Perplexity against parameters, coloured by tokens. Lines: the law at the 10, 50 and 90 % points of D.",
            lambda ax: draw.perplexity(ax, s.table, s.fitted),
        ),
    ]
    curves, text = isoflop_curves(s.table), []
    if curves:
        charts.append(Figure("isoflop_curves", _isoflop_caption(s, curves), lambda ax: isoflops(ax, curves, s.fitted)))
    else:
        text.append(
            "No IsoFLOP curves: no two budgets have runs of four sizes, nor three sizes with lengths around them."
        )
    return Section("The law", text, charts, [_parameters(s.best)])


def _isoflop_caption(s: Surface, curves: list[Curve]) -> str:
    points = "" if curves[0].measured else " Open circles: losses interpolated between the lengths of one size."
    return (
        f"The best size grows as C^{_exponent(s.fitted):.2f} by the law. Loss against size at equal compute. Lines: "
        f"the law. Crosses: its optimum at a budget, where it lies among the sizes.{points}"
    )


def _frontier_caption(s: Surface) -> str:
    spent = 6 * s.table.N * s.table.D
    first, last = float(spent.min()), 10 * float(spent.max())
    high, low = (float(_saved(s).allocation(flops)[1][0]) for flops in (first, last))
    return (
        f"The lowest loss falls from {high:.2f} at {flops_text(first)} FLOPs to {low:.2f} at {flops_text(last)}. Dots: "
        "runs; line: the lowest loss that the law allows at each budget, with its 95 % band."
    )


def _parameters(result: Study) -> Grid:
    assert result.fitted is not None
    intervals, profiles = result.intervals(), result.certificate.intervals(result.law)
    rows = [
        [name, parameter_text(value), _pair(intervals.get(name)), _pair(profiles.get(name))]
        for name, value in result.fitted.values.items()
    ]
    caption = (
        f"{result.law.formula} ({result.law.source}). Huber {result.fitted.cost.delta:g} on log loss, objective "
        f"{result.fitted.objective:.6g}; {BOOTSTRAP} replicates by row."
    )
    return Grid(["parameter", "value", "95 % bootstrap", "95 % profile"], rows, caption)


def _allocation(s: Surface) -> Section:
    if s.best.certificate.status == "refused":
        return Section("Allocation", ["Refused: " + reason for reason in s.best.certificate.reasons])
    saved, largest = _saved(s), float(s.table.C.max())
    asked = sensitivity(s.table, s.best.law, None, "N", SENSITIVE * largest)
    text = (
        "The first intervals know only the scatter of the runs about one law. The second table asks the other laws, "
        "and the same law without one size at a time."
    )
    grids = [decision_grid([decide(saved, factor * largest) for factor in BEYOND]), sensitivity_grid(asked)]
    return Section("Allocation", [text], [], grids)


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
    rows += [[name, f"{_exponent(r.fitted):.3f}"] for name, r in studies.items() if r.fitted is not None]
    text = (
        "The exponent a of N* ~ C^a by each approach. The parabola is biased on wide grids and the envelope by the "
        "choice of sizes (arXiv 2603.22339); the surface fits use every run."
    )
    return Section("Approaches", [text], [], [Grid(["approach", "a"], rows)])


def _exponent(fitted: Fitted) -> float:
    """Return the local exponent of N* at the largest budget of the fit."""
    largest = float(np.max(6 * fitted.columns["N"] * fitted.columns["D"]))
    ends = [log_optimal_n(fitted.law, fitted.theta[None], fitted.centre, largest * f)[0] for f in (0.5, 2.0)]
    return float((ends[1] - ends[0]) / np.log(4.0))


def _conventions(table: Table) -> Section:
    text = (
        "The same runs with N and C counted in each way: how far the exponents move is a choice, not a finding. C "
        "enters through the budget, so it moves a and not the law."
    )
    return Section("Counting", [text], [], [counting_grid(count_every_way(table, CHINCHILLA))])


def _saved(s: Surface) -> SavedFit:
    return saved_fit(s.fitted, s.best.certificate.status, s.best.certificate.reasons, s.table)


def _pair(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else interval(*pair, ".4g")
