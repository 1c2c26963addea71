"""The console that commands print to."""

from __future__ import annotations

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 132


def make_console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal; files and pipes get lines that no table needs to cut."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=WIDTH_WITHOUT_TERMINAL)
