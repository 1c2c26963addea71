"""The sections of a report that compares families: which is best at one size, and what another needs to be as good."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from launch.scaling.other.equal_sizes import EqualSize, EqualSizes, Standing, equal_sizes
from launch.scaling.other.family_laws import FamilyLadders, Multiple, Needs, needs_on_surface
from launch.scaling.report import family_figures
from launch.scaling.report.cells import UNIT, cell_grid
from launch.scaling.report.checklist import Answers
from launch.scaling.report.decisions import parameter_text
from launch.scaling.report.model import Figure, Grid, Section, interval
from launch.scaling.table.checks import names_text
from launch.scaling.table.families import families_of
from launch.scaling.table.table import Table
from launch.show.text import count

IN_FILE = {"N": "parameters", "D": "tokens", "C": "compute"}
UNKNOWN = 1000.0  # ends of an interval that lie this many times apart tell nothing
FLAT = 0.02  # nats by which the loss must fall over the second half of the context, not to be called flat


def headline(found: FamilyLadders) -> list[str]:
    """Say which family is best at equal size and by how much, and how each one's own law forecast its largest size."""
    lines = [] if found.at_equal_size is None else standing_lines(found.at_equal_size)
    held = [(name, f) for name, ladder in found.ladders.items() for f in ladder.preferred.forecasts]
    if held:
        told = []
        for name, forecast in held:
            inside = {None: "", True: ", inside its interval", False: ", OUTSIDE its interval"}[forecast.inside]
            told.append(f"{name} {np.exp(forecast.predicted):.2f} for {np.exp(forecast.measured):.2f}{inside}")
        lines.append(f"Perplexity of the largest size, forecast from the smaller ones: {'; '.join(told)}.")
    return lines


def standing_lines(compared: EqualSizes) -> list[str]:
    """Say which family is best at each size that all have, and by how much at the largest."""
    sizes = compared.complete or compared.sizes
    if not sizes:
        return [f"No two of {names_text(list(compared.families))} have runs of one size: nothing compares them there."]
    lines = [_best_line(sizes[-1])]
    if len(sizes) > 1:
        firsts = [size.standings[0].family for size in sizes]
        what = "sizes" if len({count(size.tokens) for size in sizes}) == 1 else "sizes and lengths"
        each = ", ".join(f"{count(size.parameters)} {size.standings[0].family}" for size in sizes)
        same = len(set(firsts)) == 1
        lines.append(f"{firsts[0]} is best at all {len(sizes)} {what}." if same else f"Best at each size: {each}.")
    return [*lines, noise_line(compared)]


def _best_line(size: EqualSize) -> str:
    best = size.standings[0]
    rest = "; ".join(f"{s.family} {np.exp(s.loss):.2f}, {_behind(s)}" for s in size.standings[1:])
    ties = [s.family for s in size.standings[1:] if not math.isnan(s.error) and not s.clear]
    also = f" Seeds alone explain the distance of {names_text(ties)}." if ties else ""
    return (
        f"At {count(size.parameters)} body parameters and {count(size.tokens)} tokens {best.family} is best: "
        f"perplexity {np.exp(best.loss):.2f}; {rest}.{also}"
    )


def _behind(s: Standing) -> str:
    error = "" if math.isnan(s.error) else f" ± {2 * s.error:.3f}"
    return f"{np.exp(s.behind) - 1:.1%} more ({s.behind:.3f}{error} nats)"


def noise_line(compared: EqualSizes) -> str:
    """Say how far apart seeds of one run lie."""
    if compared.freedom == 0:
        return "No run has a second seed: the noise is not measured, and small distances may be chance."
    return (
        f"Noise: seeds of one run differ by a standard deviation of {compared.noise:.3f} nats "
        f"({compared.freedom} degrees of freedom); ± is twice the standard error from it."
    )


def family_sections(found: FamilyLadders) -> list[Section]:
    """Return the sections in reading order; the first picture is the curves of all families."""
    sections = [_curves(found)]
    if found.at_equal_size is not None and found.at_equal_size.sizes:
        sections.append(Section("At equal size", [], [], [equal_size_grid(found.at_equal_size)]))
    if found.needs:
        cannot = [f"Cannot tell: {reason}." for reason in found.cannot]
        grid = needs_grid(found.needs, found.reference, found.formula)
        sections.append(Section("At equal loss", cannot, [], [grid]))
    sections.append(Section("The law of each family", [], [], [law_grid(found)]))
    if any(found.table.by_position):
        sections.append(position_section(found.table, found.families))
    cells = [grid for ladder in found.ladders.values() for grid in [cell_grid(ladder)]]
    return [*sections, Section("The cells", [], [], cells)]


def _curves(found: FamilyLadders) -> Section:
    table, variable = found.table, found.variable
    figure = Figure(
        f"perplexity_against_{IN_FILE[variable]}",
        f"Perplexity against {UNIT[variable]}, a curve a family. Small dots: single runs, where a size has several "
        f"seeds.{f' {table.counting}.' if table.counting else ''}",
        lambda ax: family_figures.curves(ax, table, variable, found.families),
    )
    charts = [figure]
    if variable != "C" and table.has("C"):
        charts.append(
            Figure(
                "perplexity_against_compute",
                "Perplexity against training compute, a curve a family.",
                lambda ax: family_figures.curves(ax, table, "C", found.families),
            )
        )
    return Section("The families", [], charts)


def equal_size_grid(compared: EqualSizes) -> Grid:
    """Return the perplexity of every family at each size, and by how many nats it is behind the best there."""
    rows = []
    for size in compared.sizes:
        standings = [size.of(name) for name in compared.families]
        rows.append([count(size.parameters), count(size.tokens), *("-" if s is None else _cell(s) for s in standings)])
    caption = f"Perplexity; in brackets nats behind the best of the size. {noise_line(compared)}"
    return Grid(["body parameters", "tokens", *compared.families], rows, caption)


def _cell(s: Standing) -> str:
    seeds = f" of {s.runs} seeds" if s.runs > 1 else ""
    return f"{np.exp(s.loss):.2f}" + (f" best{seeds}" if s.behind == 0 else f" (+{s.behind:.3f}){seeds}")


def needs_grid(needs: Sequence[Needs], reference: str, formula: str) -> Grid:
    """Return how many times the parameters, tokens and FLOPs of the reference each family needs for one loss."""
    rows = [[n.family, *map(_shown, (n.parameters, n.tokens, n.flops))] for n in needs]
    caption = (
        f"How many times those of {reference} a family needs for the same loss, with 95 % intervals over resampled "
        f"runs; {formula} with shared exponents and floor. Not told: the interval spans more than {UNKNOWN:g} times."
    )
    return Grid(["family", "parameters", "tokens", "FLOPs"], rows, caption)


def _shown(multiple: Multiple | None) -> str:
    if multiple is None:
        return "-"
    middle, low, high = multiple
    if low is None or high is None:
        return f"{middle:.3g}x" if 1 / UNKNOWN < middle < UNKNOWN else "not told"
    if not high < UNKNOWN * low:
        return "not told"
    return f"{middle:.3g}x {interval(low, high, '.3g')}"


def law_grid(found: FamilyLadders) -> Grid:
    """Return both laws of each family's ladder, fitted without its largest size, and what they forecast for that."""
    rows = []
    for name, ladder in found.ladders.items():
        for law in ladder.laws:
            values = ", ".join(f"{n} {parameter_text(n, v)}" for n, v in law.fitted.values.items())
            forecast = law.forecasts[0] if law.forecasts else None
            told = ["-", "-"] if forecast is None else [f"{np.exp(forecast.predicted):.2f}", f"{forecast.error:+.2%}"]
            measured = "-" if forecast is None else f"{np.exp(forecast.measured):.2f}"
            rows.append([name, law.fitted.law.formula, values, *told, measured])
    header = ["family", "law", "parameters", "forecast", "off (loss)", "measured"]
    held = any(ladder.held_out.any() for ladder in found.ladders.values())
    caption = "Each fitted without the largest size of its family, whose perplexity it then forecasts." if held else ""
    return Grid(header, rows, caption)


def position_section(table: Table, families: tuple[str, ...]) -> Section:
    """Return the loss by position at each family's largest size, and whose curve goes flat."""
    groups, largest = table.labels["group"], _largest(table)
    flat: list[str] = []
    falls: list[str] = []
    for name in families:
        rows = [
            table.by_position[i] for i in np.flatnonzero((groups == name) & largest).tolist() if table.by_position[i]
        ]
        if not rows or len(rows[0]) < 4:
            continue
        losses = np.mean([row for row in rows if len(row) == len(rows[0])], axis=0)
        half, quarter = len(losses) // 2, len(losses) // 4
        fall = float(losses[half - quarter : half].mean() - losses[-quarter:].mean())
        (falls if fall > FLAT else flat).append(f"{name} ({fall:.3f})")
    said = "From the second quarter of the context to the last the loss falls, in nats, for"
    text = [f"{said} {', '.join(falls)}."] if falls else []
    text += [f"It is flat within {FLAT} nats for {', '.join(flat)}."] if flat else []
    chart = Figure(
        "loss_by_position",
        "Loss by position in the context at the largest size of each family: who still gains from what is far back.",
        lambda ax: family_figures.positions(ax, table, largest, families),
    )
    return Section("Loss by position", text, [chart])


def _largest(table: Table) -> NDArray[np.bool_]:
    """Return which rows (n,) are of their family's largest size, and there of most tokens."""
    groups = table.labels["group"]
    found = np.zeros(len(table), bool)
    for name in set(groups.tolist()):
        mine = groups == name
        for values in (table.columns[v] for v in ("N", "D") if table.has(v)):
            mine = mine & np.isclose(values, values[mine].max())
        found |= mine
    return found


def surface_section(table: Table) -> Section:
    """Return the comparison of families whose sizes and lengths both vary: at equal size, at equal loss, by compute."""
    families, compared = families_of(table), equal_sizes(table)
    needs, formula = needs_on_surface(table)
    chart = Figure(
        "families_against_compute",
        "Perplexity against training compute: a dot a run, a step line at the best of each family so far.",
        lambda ax: family_figures.frontiers(ax, table, families),
    )
    grids = [needs_grid(needs, families[0], formula)] if needs else []
    grids += [equal_size_grid(compared)] if compared.sizes else []
    return Section("The families", [], [chart], grids)


def family_answers(found: FamilyLadders) -> Answers:
    """Return what the checklist asks of the fits."""
    return Answers(
        formula=f"{found.formula} with shared exponents, and one law for each family",
        source="Kaplan et al. 2020, section 3, a multiplier for each family",
        parameters="exponents and floor in common; a multiplier for each family",
        objective="Huber loss of log loss for the shared law; least squares of log loss for each family's",
        starts="a grid of exponents by variable projection",
        intervals="95 % over resampled runs",
        held_out="each family's largest size is held out of its own law and forecast",
    )
