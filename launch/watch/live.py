"""The live table in a terminal: it is drawn again and again, and keys sort, filter and scroll it."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from launch.watch.run_table import Selection, headline, run_table
from launch.watch.run_view import Reader, RunView

HELP = "q quit   s sort   f filter by state   j/k, space, b scroll"
AROUND = 3  # lines that are no runs: headline, names of columns, help


def live(reader: Reader, console: Console, selection: Selection, seconds: float) -> None:
    """Show the table until `q` or Ctrl-C. It is read again every so many seconds, and drawn after each key."""
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as screen:
        views = reader.views()
        while True:
            screen.update(_page(views, selection, console), refresh=True)
            key = pressed(seconds)
            if key == "q":
                return
            if key:
                selection = answer(key, selection, views, page=max(1, console.height - AROUND))
            else:
                views = reader.views()


def answer(key: str, selection: Selection, views: list[RunView], page: int) -> Selection:
    """Return the selection after a key; one that means nothing changes nothing."""
    total = len(selection.of(views))
    if key == "s":
        return selection.next_sort()
    if key == "f":
        return selection.next_state(views)
    lines = {"j": 1, "k": -1, " ": page, "b": -page}.get(key, 0)
    return selection.scrolled(lines, total)


def _page(views: list[RunView], selection: Selection, console: Console) -> RenderableType:
    shown = selection.of(views)
    part = shown[selection.first : selection.first + max(1, console.height - AROUND)]
    lines = Text(headline(views, len(part), selection), style="bold", no_wrap=True, overflow="ellipsis")
    return Group(lines, run_table(part, console.width), Text(HELP, style="dim", no_wrap=True, overflow="ellipsis"))


class _Pressed:
    def __call__(self, seconds: float) -> str:
        """Return the key that is pressed within so many seconds; "" where none is."""
        descriptor = sys.stdin.fileno()  # not the buffered stream: `select` does not see what that has taken
        readable, _, _ = select.select([descriptor], [], [], seconds)
        return (os.read(descriptor, 1).decode("ascii", "replace") or "q") if readable else ""


@contextmanager
def _keys() -> Iterator[_Pressed]:
    """Have keys come one by one and unseen while the block runs."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield _Pressed()
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
