"""Where a rank was, as its own output tells: the last traceback of its log, the last dump of its stacks."""

from __future__ import annotations

from pathlib import Path

from trainer.node.failure import tail

TRACEBACK_LINES, STACK_LINES = 25, 12
OURS = "/trainer/"  # in the path of our own code
_MARKS = ("Traceback (most recent call last)", "Fatal Python error", "watchdog:")


def traceback_of(log: Path) -> list[str]:
    """Return the last traceback or dump of stacks in a rank's log, at most so many of its last lines."""
    lines = tail(log).splitlines()
    starts = [index for index, line in enumerate(lines) if any(mark in line for mark in _MARKS)]
    return lines[starts[-1] :][-TRACEBACK_LINES:] if starts else lines[-3:]


def main_stack(stacks: Path) -> list[str]:
    """Return the main thread's part of the last dump of `faulthandler`, innermost call first; [] where there is none.

    Of a long one these are the innermost calls, and the first of our own, below which a library works. The dump lists
    the threads from the newest on, so the main thread comes last.
    """
    lines = tail(stacks).splitlines()
    starts = [index for index, line in enumerate(lines) if line.startswith(("Thread 0x", "Current thread 0x"))]
    if not starts:
        return []
    calls = [line for line in lines[starts[-1] + 1 :] if line.startswith("  File ")]
    ours = next((index for index, line in enumerate(calls) if OURS in line), 0)
    return calls[:STACK_LINES] + ([calls[ours]] if ours >= STACK_LINES else [])
