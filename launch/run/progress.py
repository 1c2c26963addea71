"""What training prints while it is attended: its lines and, where that is a terminal, a bar below them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import TextIO

from launch.run.newest_step import newest_step
from launch.show.text import count, progress_bar
from trainer.contract.durations import duration
from trainer.contract.run_dir import RunDir

CLEAR = "\r\x1b[2K"  # to the beginning of the line, and nothing on it


def show_training(lines: Iterable[str], run_dir: RunDir, steps: int, out: TextIO | None = None) -> None:
    """Print lines as they come. On a terminal the steps that are done stand below the last one, as the record has them.

    `out` is standard output by default.
    """
    out = sys.stdout if out is None else out
    if not out.isatty():
        for line in lines:
            print(line.rstrip("\n"), file=out, flush=True)
        return
    drawn = ""
    try:
        for line in lines:
            drawn = bar_line(run_dir, steps, shutil.get_terminal_size().columns - 1)
            print(f"{CLEAR}{line.rstrip()}\n{drawn}", end="", file=out, flush=True)
    finally:
        if drawn:
            print(CLEAR, end="", file=out, flush=True)


def bar_line(run_dir: RunDir, steps: int, width: int) -> str:
    """Return a bar of so many columns, with what the newest row says of the pace; "" before the first row."""
    row = newest_step(run_dir)
    if row is None:
        return ""
    said = [f"{row['step']}/{steps}", f"{row['step'] / steps:.0%}"]
    if isinstance(loss := row["loss"], int | float):
        said.append(f"loss {loss:.4f}")
    if isinstance(rate := row.get("tokens_per_second"), int | float):
        said.append(f"{count(rate)} tokens/s")
    if isinstance(left := row.get("seconds_left"), int | float):
        said.append(f"{duration(left)} left")
    text = "  ".join(said)
    return f"{progress_bar(row['step'] / steps, max(0, min(40, width - len(text) - 1)))} {text}"[:width]
