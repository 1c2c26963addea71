"""The console that commands print to."""

from __future__ import annotations

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 132


def make_console() -> Console:
    """Return a console as wide as the terminal; files and pipes get lines that no table needs to cut."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)
