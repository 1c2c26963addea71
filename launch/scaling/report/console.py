"""The same findings for the terminal."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from launch.scaling.ladder import Ladder, fit_ladder
from launch.scaling.report.ladder import cell_grid, forecast_grids, headline, law_grid
from launch.scaling.report.model import Grid
from launch.scaling.table import Table


def ladder_text(ladder: Ladder) -> Group:
    """Return cells, laws and forecasts as one printable thing."""
    parts: list[RichTable | Text] = [grid_text(cell_grid(ladder), "Cells")]
    parts += [grid_text(law_grid(ladder), "Laws")]
    parts += [grid_text(g, "Forecasts") for g in forecast_grids(ladder)]
    parts += [Text(line, style="bold") for line in headline(ladder)]
    parts += [Text(f"cannot tell: {reason}", style="yellow") for reason in ladder.cannot]
    parts += [Text(f"warning: {w}", style="yellow") for w in ladder.table.warnings]
    return Group(*parts)


def print_ladder(table: Table | Ladder, console: Console | None = None) -> Ladder:
    """Fit the ladder if needed, print it, and return it."""
    ladder = table if isinstance(table, Ladder) else fit_ladder(table)
    (console or Console()).print(ladder_text(ladder))
    return ladder


def grid_text(grid: Grid, title: str) -> RichTable:
    """Return a grid as a table for the terminal."""
    shown = RichTable(title=title, title_justify="left", caption=grid.caption or None, caption_justify="left")
    for k, name in enumerate(grid.header):
        shown.add_column(name, justify="left" if k == 0 else "right")
    for row in grid.rows:
        shown.add_row(*[Text(cell) for cell in row])
    return shown
