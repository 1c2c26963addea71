"""Render a report: figures as PNG, one HTML file with everything inside, and Markdown beside it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from launch.scaling.ladder import fit_ladder
from launch.scaling.report.ladder import Curves, headline, ladder_sections
from launch.scaling.report.model import Figure, Report, Section
from launch.scaling.table import Table, from_ledger, load
from trainer.run_dir import write_atomically

SIZE_INCHES, DPI = (6.8, 4.3), 150


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

    `layout_check` is optional: layout name -> (steps, losses) of one cell trained under several layouts. Raises
    `UserError` when the rows do not make a ladder.
    """
    if isinstance(rows, (str, Path)):
        table = load(rows, n_convention=n_convention)
    elif isinstance(rows, Table):
        table = rows
    else:
        table = from_ledger([dict(row) for row in rows], n_convention=n_convention)
    return render(build(table, title, layout_check), Path(out_dir))


def build(table: Table, title: str, layout_check: Curves | None = None) -> Report:
    """Decide what the runs can tell and put it into sections."""
    ladder = fit_ladder(table)
    sections = ladder_sections(ladder, layout_check)
    sections.append(provenance(table))
    return Report(title, headline(ladder), sections)


def provenance(table: Table) -> Section:
    """Say where the numbers come from and what was noticed while reading them."""
    lines = [f"Table: {table.source}, SHA-256 {table.sha256[:16] or 'not a file'}, {len(table)} rows used."]
    lines.append(f"Convention of N: {table.n_convention}; of C: {table.c_convention}.")
    lines += [f"Derived: {note}." for note in table.notes]
    lines += [f"Warning: {warning}" for warning in table.warnings]
    return Section("How this was made", lines)


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

    canvas = Canvas(figsize=SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(canvas)
    figure.draw(canvas.add_subplot())
    path = out_dir / f"{figure.name}.png"
    canvas.savefig(path, dpi=DPI)
    return path
