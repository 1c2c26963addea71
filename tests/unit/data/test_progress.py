"""What a preparation shows: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import count

import pytest

from trainer.data.prepare.progress import Progress

ESCAPES = re.compile(r"\x1b\[[\d?;]*[A-Za-z]")


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def work(progress: Progress) -> None:
    with progress:
        progress.start(0, 4)
        for _ in range(3):
            progress.advance(2_000_000, 500_000)
        progress.say("a word [red]between[/red]")
    progress.say("the end")


def test_a_log_gets_plain_lines_every_few_seconds() -> None:
    seconds: Iterator[int] = count(0, 2)
    out = io.StringIO()
    work(Progress(out=out, clock=lambda: next(seconds)))
    first, *others = out.getvalue().splitlines()
    assert "encoding" in first and "MB/s" in first
    assert others == ["a word [red]between[/red]", "the end"]


def test_a_terminal_gets_one_line_of_its_width_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    work(Progress(out=out, total_bytes=8_000_000))
    shown = [ESCAPES.sub("", line).strip("\r") for line in re.split(r"\n|\x1b\[2K", out.getvalue())]
    live = [line for line in shown if "encoding" in line]
    assert live and all(len(line) <= 40 for line in live), "a longer line would wrap, and stay on the screen"
    assert [line for line in shown if line and line not in live] == ["a word [red]between[/red]", "the end"]
    assert out.getvalue().count("\x1b[?25l") == out.getvalue().count("\x1b[?25h") == 1, "the cursor is shown again"


def test_a_terminal_without_escapes_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    work(Progress(out=out))
    assert out.getvalue() == "a word [red]between[/red]\nthe end\n"
