"""The live table in a terminal: it is drawn again and again, and keys sort, filter, move and enter a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from launch.watch import keys as key_names
from launch.watch.keys import keys
from launch.watch.run_screen import Look, run_screen
from launch.watch.run_table import headline, run_table
from launch.watch.run_view import Reader, RunView
from launch.watch.selection import Selection

HELP = "q quit  j/k move  enter look into a run  s sort  f state  / find"
AROUND = 3  # lines that are no runs: headline, names of columns, help


@dataclass(frozen=True)
class Screen:
    """What is on the screen: the table, or with `inside` the run that is pointed at."""

    selection: Selection = field(default_factory=Selection)
    inside: bool = False
    typing: bool = False  # keys go into the text to find
    look: Look = field(default_factory=Look)
    left: bool = False


def live(reader: Reader, console: Console, selection: Selection, seconds: float) -> None:
    """Show the table until `q` or Ctrl-C. It is read again every so many seconds, and drawn after each key."""
    with keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as drawn:
        screen, views = Screen(selection), reader.views()
        while not screen.left:
            drawn.update(page(views, screen, console.width, console.height), refresh=True)
            key = pressed(seconds)
            if key:
                screen = answer(key, screen, views, max(1, console.height - AROUND))
            else:
                views = reader.views()


def answer(key: str, screen: Screen, views: list[RunView], lines: int) -> Screen:
    """Return the screen after a key; one that means nothing changes nothing. `lines` is the length of a page."""
    selection = screen.selection
    shown = selection.of(views)
    if screen.typing:
        return _typed(key, screen)
    if key in _PAGES and not screen.inside:
        return replace(screen, selection=selection.moved(_PAGES[key] * lines, shown))
    if key in _LINES:
        return replace(screen, selection=selection.moved(_LINES[key], shown))
    if screen.inside:
        return _inside(key, screen, shown)
    if key in (key_names.ENTER, key_names.RIGHT) and shown:
        return replace(screen, inside=True, look=Look(), selection=selection.moved(0, shown))
    if key == key_names.BACK:
        return replace(screen, selection=replace(selection, text=""))
    if key == "s":
        return replace(screen, selection=selection.next_sort())
    if key == "f":
        return replace(screen, selection=selection.next_state(views))
    return replace(screen, typing=key == "/", left=key == "q")


def _inside(key: str, screen: Screen, shown: list[RunView]) -> Screen:
    if key in ("q", key_names.BACK, key_names.LEFT, key_names.ERASE):
        return replace(screen, inside=False)
    if key == "r" and shown:
        run = Path(shown[screen.selection.index(shown)].run_dir)
        return replace(screen, look=screen.look.next_rank(run))
    return replace(screen, look=replace(screen.look, log_x=not screen.look.log_x)) if key == "x" else screen


def _typed(key: str, screen: Screen) -> Screen:
    selection = screen.selection
    if key == key_names.ENTER:
        return replace(screen, typing=False)
    if key == key_names.BACK:
        return replace(screen, typing=False, selection=replace(selection, text=""))
    text = selection.text[:-1] if key == key_names.ERASE else selection.text + key if len(key) == 1 else selection.text
    return replace(screen, selection=replace(selection, text=text))


def page(views: list[RunView], screen: Screen, width: int, height: int) -> RenderableType:
    """Return what fills so many columns and lines."""
    selection = screen.selection
    shown = selection.of(views)
    index = selection.index(shown)
    if screen.inside and shown:
        return run_screen(shown[index], screen.look, width, height)
    lines = max(1, height - AROUND)
    first = max(0, min(index - lines // 2, len(shown) - lines))
    head = Text(headline(views, len(shown), selection), style="bold", no_wrap=True, overflow="ellipsis")
    foot = Text(f"find: {selection.text}_" if screen.typing else HELP, style="dim", no_wrap=True, overflow="ellipsis")
    at = shown[index].run_dir if shown else None
    return Group(head, run_table(shown[first : first + lines], width, at), foot)


_LINES = {"j": 1, "k": -1, key_names.DOWN: 1, key_names.UP: -1}
_PAGES = {" ": 1, "b": -1, key_names.PAGE_DOWN: 1, key_names.PAGE_UP: -1}
