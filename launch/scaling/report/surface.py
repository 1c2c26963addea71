"""The sections of a report about runs that vary in N and in D."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.allocate import log_optimal_n
from launch.scaling.checks import rows_text
from launch.scaling.counting import count_every_way
from launch.scaling.decide import decide
from launch.scaling.fit import Fitted
from launch.scaling.holdout import HoldOut, believed, hold_out
from launch.scaling.isoflop import METHODS, exponents
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import find_law
from launch.scaling.replicates import lack_of_fit
from launch.scaling.report import surface_figures as draw
from launch.scaling.report.decisions import (
    counted_estimate,
    counting_grid,
    decision_grid,
    ends,
    hold_out_grid,
    sensitivity_grid,
)
from launch.scaling.report.model import Figure, Grid, Section, count, interval
from launch.scaling.saved import SavedFit, saved_fit
from launch.scaling.sensitivity import sensitivity
from launch.scaling.study import Study, study
from launch.scaling.table import Table

BOOTSTRAP = 400
OUTLIER = 8
SENSITIVE = 10.0  # the budget at which laws are compared, over the largest run
BEYOND = (1.0, 10.0, 100.0)  # budgets of the allocation table, over the largest run


@dataclass(frozen=True)
class Surface:
    """Everything that the sections need, computed once."""

    table: Table
    best: Study  # the law that held-out budgets chose
    chinchilla: Study
    held: tuple[HoldOut, ...]

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
    held = hold_out(table)
    chosen = believed(table, held) or CHINCHILLA.name
    best = chinchilla
    if chosen != CHINCHILLA.name:
        best = study(table, find_law(chosen), bootstrap=BOOTSTRAP, seed=seed)
    return Surface(table, best, chinchilla, held)


def headline(s: Surface) -> list[str]:
    """Say which law, how far it may be trusted, and what it says about ten times the largest budget."""
    table = s.table
    lines = [
        f"{len(table)} runs, {count(table.N.min())} to {count(table.N.max())} parameters, {count(table.D.min())} to "
        f"{count(table.D.max())} tokens, up to {table.C.max():.2g} FLOPs. Law: {s.best.law.formula}, "
        f"{s.best.certificate.status}."
    ]
    if s.held:
        chosen = next((h for h in s.held if h.law == s.best.law.name), s.held[0])
        lines.append(
            f"On budgets that the fits did not see, {chosen.law} was off by {chosen.mean:.2%} on average, up to "
            f"{chosen.distance.max():.0f} times beyond its runs."
        )
    if s.best.certificate.status != "refused":
        far = decide(_saved(s), 10 * float(table.C.max()))
        lines.append(
            f"At ten times the largest budget, {far.flops:.2g} FLOPs: {counted_estimate(far.N)} parameters on "
            f"{counted_estimate(far.D)} tokens, loss {far.loss.value:.3f}{ends(far.loss, '.3f')}."
        )
    return lines


def surface_sections(s: Surface) -> list[Section]:
    """Return the sections in reading order."""
    sections = [_law(s), _allocation(s)]
    if s.held:
        sections.append(_hold_out(s.held))
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
            "Perplexity against parameters; lines: the law at the 10, 50 and 90 % points of D.",
            lambda ax: draw.perplexity(ax, s.table, s.fitted),
        ),
    ]
    if len(draw.isoflop_groups(s.table)) >= 2:
        charts.append(
            Figure(
                "isoflop_curves",
                f"The best size grows as C^{_exponent(s.fitted):.2f}. Loss against size at equal compute. "
                "Lines: the law. Crosses: its optimum at each budget.",
                lambda ax: draw.isoflops(ax, s.table, s.fitted),
            )
        )
    return Section("The law", [], charts, [_parameters(s.best)])


def _frontier_caption(s: Surface) -> str:
    first, last = float(s.table.C.min()), 10 * float(s.table.C.max())
    high, low = (float(_saved(s).allocation(flops)[1][0]) for flops in (first, last))
    return (
        f"The lowest loss falls from {high:.2f} at {first:.1e} FLOPs to {low:.2f} at {last:.1e}. Dots: runs; line: "
        "what the law allows at each budget, with its 95 % band."
    )


def _parameters(result: Study) -> Grid:
    assert result.fitted is not None
    intervals, profiles = result.intervals(), result.certificate.intervals(result.law)
    rows = [
        [name, f"{value:.5g}", _pair(intervals.get(name)), _pair(profiles.get(name))]
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


def _hold_out(held: tuple[HoldOut, ...]) -> Section:
    chart = Figure(
        "hold_out_error",
        f"{held[0].law} misses larger budgets least, by {held[0].mean:.2%} on average. Mean error of the loss against "
        "the distance from the runs that were fitted.",
        lambda ax: draw.hold_out_errors(ax, held),
    )
    text = "Each law was fitted to the smaller 50, 65, 80 and 90 % of the runs and judged on the rest."
    return Section("Hold-out", [text], [chart], [hold_out_grid(held)])


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
    freedom = len(s.table) - s.fitted.num_params
    chart = Figure(
        "profiles",
        "Profile deviance of each parameter and of ln N* at the largest budget; dashed: 95 %.",
        lambda axes: draw.profiles(axes, c, freedom, s.best.law.positive),
        panels=-(-len(c.profiles) // 3) * 3,
    )
    return Section("Certificate", text, [chart])


def _outliers(s: Surface) -> list[str]:
    """Name the rows that the law misses by far: diverged runs, or another recipe."""
    off = s.fitted.residuals
    scale = float(np.median(np.abs(off))) / 0.6745
    far = np.abs(off) > OUTLIER * scale
    if scale < 1e-9 or not far.any():
        return []
    return [
        f"{rows_text(s.table.row[far])} lie more than {OUTLIER} robust standard deviations ({OUTLIER * scale:.1%}) off "
        "the law: look at these runs, or leave the highest losses out (--drop-highest-loss)."
    ]


def _residuals(s: Surface) -> Section:
    chart = Figure(
        "residuals",
        f"Half of the runs lie within {float(np.median(np.abs(s.fitted.residuals))):.2%} of the law. Residuals of the "
        "log loss against N, D and C: any trend is drift that the law misses.",
        lambda axes: draw.residuals(axes, s.table, s.fitted),
        panels=3,
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
