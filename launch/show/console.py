"""The console that commands print to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from trainer.contract.plain_text import plain

WIDTH_WITHOUT_TERMINAL = 132


class PlainConsole(Console):
    """Shows text as it is: what runs, logs and schedulers wrote holds brackets and escapes that rich would obey.

    No string is markup, in tables, titles and trees neither; style what is ours with `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text of the right width, without control characters."""
        return super().render_str(plain(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is shown. Text that was styled before it came here is made plain too."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(plain(segment.text), segment.style)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal; files and pipes get lines that no table needs to cut."""
    console = PlainConsole(stderr=stderr)
    return console if console.is_terminal else PlainConsole(stderr=stderr, width=WIDTH_WITHOUT_TERMINAL)
