"""Render a report: figures as PNG, one HTML file with everything inside, and Markdown beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from launch.scaling.other.equal_sizes import equal_sizes
from launch.scaling.other.family_laws import fit_families
from launch.scaling.other.ladder import fit_ladder
from launch.scaling.report import surface as of_surface
from launch.scaling.report.analysis import analyse
from launch.scaling.report.asked import asked_section
from launch.scaling.report.checklist import checklist_section, forecast_lines, forecasts_section, provenance_section
from launch.scaling.report.context_lengths import context_section
from launch.scaling.report.families import (
    family_answers,
    family_sections,
    position_section,
    standing_lines,
    surface_section,
)
from launch.scaling.report.families import headline as family_headline
from launch.scaling.report.hover import Point, points
from launch.scaling.report.ladder import (
    Curves,
    by_position_section,
    headline,
    ladder_answers,
    ladder_sections,
    layout_section,
)
from launch.scaling.report.model import Figure, Report
from launch.scaling.table.checks import names_text
from launch.scaling.table.counting import DEFAULT_N
from launch.scaling.table.families import families_of
from launch.scaling.table.load import from_ledger, load
from launch.scaling.table.table import Table
from trainer.contract.errors import UserError
from trainer.contract.run_dir import write_atomically

FEWEST_RUNS = 3
# Inches. Small enough that the print stays readable where a page shows two charts side by side, or a phone one.
SIZE, PANEL_SIZE, DPI = (4.9, 3.4), (3.3, 2.5), 200
MARGINS = {"left": 0.135, "right": 0.97, "bottom": 0.145, "top": 0.96}
PANEL_MARGINS = {"left": 0.2, "right": 0.92, "bottom": 0.2, "top": 0.95}
STYLE = {
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "legend.labelspacing": 0.3,
}


@dataclass(frozen=True)
class ReportPaths:
    """What was written."""

    html: Path
    markdown: Path
    figures: tuple[Path, ...]


def write(
    rows: Table | Path | str | Iterable[Mapping[str, Any]],
    out_dir: Path | str,
    *,
    title: str = "Scaling report",
    layout_check: Curves | None = None,
    n_convention: str = DEFAULT_N,
    forecasts: Path | None = None,
    question: Mapping[str, Any] | None = None,
    context: Path | None = None,
) -> ReportPaths:
    """Write `report.html`, `report.md` and their PNGs about a ledger, its rows or a loaded table.

    `layout_check` is optional: layout name -> (steps, losses) of one cell trained under several layouts. `forecasts`
    is a forecast ledger. `question` is what a command was asked (`launch/commands/question.py`), `context` the JSON
    of `benchmarks.context`. Raises `UserError` when the rows make neither a ladder nor a surface.
    """
    if isinstance(rows, (str, Path)):
        table = load(rows, n_convention=n_convention)
    elif isinstance(rows, Table):
        table = rows
    else:
        table = from_ledger([dict(row) for row in rows], n_convention=n_convention)
    with np.errstate(
        over="ignore"
    ):  # perplexities of runs that went wrong: infinite in tables, beyond the edge in charts
        return render(build(table, title, layout_check, forecasts, question, context), Path(out_dir))


def build(
    table: Table,
    title: str,
    layout_check: Curves | None = None,
    forecasts: Path | None = None,
    question: Mapping[str, Any] | None = None,
    context: Path | None = None,
) -> Report:
    """Decide what the runs can tell and put it into sections: a surface of N and D, or one ladder."""
    if len(table) < FEWEST_RUNS:
        raise UserError(f"{table.source}: {len(table)} runs; a law needs {FEWEST_RUNS} at least, and more to be tested")
    surface = analyse(table)
    if surface is not None:
        lines, sections = of_surface.headline(surface), of_surface.surface_sections(surface)
        answers = of_surface.answers(surface)
        if len(families_of(table)) > 1:
            sections.insert(0, surface_section(table))
            lines = [*standing_lines(equal_sizes(table)), *lines, *_families(table)]
    elif len(families_of(table)) > 1:
        families = fit_families(table)
        lines, sections, answers = family_headline(families), family_sections(families), family_answers(families)
    else:
        ladder = fit_ladder(table)
        lines, sections, answers = headline(ladder), ladder_sections(ladder), ladder_answers(ladder)
    if surface is not None and any(table.by_position):
        several = len(families_of(table)) > 1
        sections.append(position_section(table, families_of(table)) if several else by_position_section(table))
    if context is not None:
        sections.append(context_section(context))
    if layout_check:
        sections.append(layout_section(layout_check))
    if forecasts is not None:
        sections.insert(1, forecasts_section(forecasts, table))
        lines += forecast_lines(forecasts, table)
    sections += [checklist_section(table, answers), provenance_section(table)]
    sections += [] if question is None else [asked_section(question)]
    return Report(title, lines, sections)


def _families(table: Table) -> list[str]:
    """Say that runs of several families were pooled: one law may describe none of them."""
    families = sorted(set(table.labels.get("group", ())))
    if len(families) < 2:
        return []
    return [
        f"One law for {len(families)} families ({names_text(families)}): compare them with escala fit --law "
        "shared-exponents, or keep one with --where."
    ]


def render(report: Report, out_dir: Path) -> ReportPaths:
    """Draw the figures and write the files. The HTML file needs nothing beside it."""
    out_dir.mkdir(parents=True, exist_ok=True)
    drawn = {f.name: _draw(f, out_dir) for section in report.sections for f in section.figures}
    images = {
        name: [(base64.b64encode(path.read_bytes()).decode(), json.dumps(points)) for path, points in panels]
        for name, panels in drawn.items()
    }
    files = {name: [path.name for path, _ in panels] for name, panels in drawn.items()}
    environment = Environment(
        loader=PackageLoader("launch", "templates"),
        autoescape=select_autoescape(["html", "html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kept"] = lambda text: str(text).replace(", ", ",\u00a0") if "[" in str(text) else text
    environment.filters["plain"] = lambda text: str(text).replace("&", "&amp;").replace("<", "&lt;")
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    html, markdown = out_dir / "report.html", out_dir / "report.md"
    for path, template in ((html, "report.html.j2"), (markdown, "report.md.j2")):
        text = environment.get_template(template).render(report=report, images=images, files=files)
        write_atomically(path, text)
    return ReportPaths(html, markdown, tuple(path for panels in drawn.values() for path, _ in panels))


def _draw(figure: Figure, out_dir: Path) -> list[tuple[Path, list[Point]]]:
    """Draw every panel into an image of its own, with what the pointer says of its points.

    A page lays the panels out as its width allows.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    single = not figure.panels
    with rc_context(STYLE):
        canvases = [Canvas(figsize=SIZE if single else PANEL_SIZE) for _ in figure.panels or [""]]
        for canvas in canvases:
            FigureCanvasAgg(canvas)
            canvas.subplots_adjust(**(MARGINS if single else PANEL_MARGINS))  # a layout engine would draw it twice
        axes = [canvas.add_subplot() for canvas in canvases]
        figure.draw(axes[0] if single else axes)
        names = [figure.name] if single else [f"{figure.name}_{panel}" for panel in figure.panels]
        paths = [out_dir / f"{name}.png" for name in names]
        for canvas, path in zip(canvases, paths, strict=True):
            canvas.savefig(path, dpi=DPI, pil_kwargs={"compress_level": 6})
        return [(path, points(ax)) for path, ax in zip(paths, axes, strict=True)]
