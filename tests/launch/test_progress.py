"""Training that is attended shows its lines, and a bar below them where somebody looks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

from launch.run.progress import CLEAR, bar_line, show_training
from trainer.contract.run_dir import RunDir, append_json


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """Return the lines that are left on the screen."""
        return [line.rpartition(CLEAR)[2] for line in self.getvalue().split("\n")]


def trained(run_dir: RunDir) -> Iterator[str]:
    yield "plan\n"
    for step in (1, 2):
        append_json(run_dir.metrics, {"kind": "train", "step": step, "loss": 4.0, "seconds_left": 80.0})
        yield f"line {step}\n"


def test_a_terminal_has_a_bar_below_the_lines_and_a_file_has_none(tmp_path: Path) -> None:
    terminal, file, seen = Terminal(), io.StringIO(), []
    for line in trained(RunDir(tmp_path)):
        show_training([line], RunDir(tmp_path), 4, file)
        show_training([line], RunDir(tmp_path), 4, terminal)
        seen.append(terminal.getvalue())
    assert file.getvalue() == "plan\nline 1\nline 2\n"
    assert terminal.screen() == ["plan", "line 1", "line 2", ""], "the bar goes at the end"
    assert "1/4  25%  loss 4.0000  1m20s left" in seen[1] and "1/4" not in seen[0]


def test_the_bar_fits_its_line(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert bar_line(run_dir, 9, 79) == ""
    append_json(run_dir.metrics, {"kind": "train", "step": 3, "loss": None, "tokens_per_second": 21_000.0})
    assert bar_line(run_dir, 4, 79) == "━" * 30 + "─" * 10 + " 3/4  75%  21K tokens/s"
    assert all(len(bar_line(run_dir, 4, width)) <= width for width in range(1, 80))
