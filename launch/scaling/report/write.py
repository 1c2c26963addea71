"""Render a report: figures as PNG, one HTML file with everything inside, and Markdown beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from launch.scaling.ladder import fit_ladder
from launch.scaling.report.checklist import checklist_section, forecast_lines, forecasts_section, provenance_section
from launch.scaling.report.ladder import Curves, by_position_section, headline, ladder_sections, layout_section
from launch.scaling.report.model import Figure, Report
from launch.scaling.report.surface import analyse, surface_sections
from launch.scaling.report.surface import headline as surface_headline
from launch.scaling.table import Table, from_ledger, load
from trainer.run_dir import write_atomically

MARGINS = {"left": 0.105, "right": 0.97, "bottom": 0.125, "top": 0.96}
PANEL_MARGINS = {"left": 0.07, "right": 0.985, "top": 0.93, "wspace": 0.3, "hspace": 0.5}
SIZE_INCHES, PANELS_INCHES, DPI = (6.8, 4.3), (9.0, 2.7), 130


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
    n_convention: str = "head",
    forecasts: Path | None = None,
) -> ReportPaths:
    """Write `report.html`, `report.md` and their PNGs about a ledger, its rows or a loaded table.

    `layout_check` is optional: layout name -> (steps, losses) of one cell trained under several layouts. `forecasts`
    is a forecast ledger. Raises `UserError` when the rows make neither a ladder nor a surface.
    """
    if isinstance(rows, (str, Path)):
        table = load(rows, n_convention=n_convention)
    elif isinstance(rows, Table):
        table = rows
    else:
        table = from_ledger([dict(row) for row in rows], n_convention=n_convention)
    return render(build(table, title, layout_check, forecasts), Path(out_dir))


def build(table: Table, title: str, layout_check: Curves | None = None, forecasts: Path | None = None) -> Report:
    """Decide what the runs can tell and put it into sections: a surface of N and D, or one ladder."""
    surface = analyse(table)
    if surface is not None:
        lines, sections = surface_headline(surface), surface_sections(surface)
        law, objective = surface.best.law.formula, f"Huber {surface.fitted.cost.delta:g} on log loss, damped Newton"
        held_out = "the larger budgets are held out, four cuts"
    else:
        ladder = fit_ladder(table)
        lines, sections = headline(ladder), ladder_sections(ladder, None)
        law, objective = ladder.preferred.fitted.law.formula, "least squares on log loss, damped Newton"
        held_out = "the largest size is held out"
    if surface is not None and any(table.by_position):
        sections.append(by_position_section(table))
    if layout_check:
        sections.append(layout_section(layout_check))
    if forecasts is not None:
        sections.insert(1, forecasts_section(forecasts, table))
        lines += forecast_lines(forecasts, table)
    sections += [checklist_section(table, law, objective, held_out), provenance_section(table)]
    return Report(title, lines, sections)


def render(report: Report, out_dir: Path) -> ReportPaths:
    """Draw the figures and write the files. The HTML file needs nothing beside it."""
    out_dir.mkdir(parents=True, exist_ok=True)
    drawn = {f.name: _draw(f, out_dir) for section in report.sections for f in section.figures}
    images = {name: base64.b64encode(path.read_bytes()).decode() for name, path in drawn.items()}
    environment = Environment(
        loader=PackageLoader("launch", "templates"),
        autoescape=select_autoescape(["html", "html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|")
    html, markdown = out_dir / "report.html", out_dir / "report.md"
    for path, template in ((html, "report.html.j2"), (markdown, "report.md.j2")):
        text = environment.get_template(template).render(report=report, images=images)
        write_atomically(path, text)
    return ReportPaths(html, markdown, tuple(drawn.values()))


def _draw(figure: Figure, out_dir: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    rows = -(-figure.panels // 3)
    width, height = SIZE_INCHES if figure.panels == 1 else (PANELS_INCHES[0], PANELS_INCHES[1] * rows)
    canvas = Canvas(figsize=(width, height))  # fixed margins: a layout engine draws everything a second time
    FigureCanvasAgg(canvas)
    canvas.subplots_adjust(**(MARGINS if figure.panels == 1 else {**PANEL_MARGINS, "bottom": 0.5 / height}))
    if figure.panels == 1:
        figure.draw(canvas.add_subplot())
    else:
        figure.draw(list(canvas.subplots(rows, 3, squeeze=False).flat))
    path = out_dir / f"{figure.name}.png"
    canvas.savefig(path, dpi=DPI, pil_kwargs={"compress_level": 3})
    return path
