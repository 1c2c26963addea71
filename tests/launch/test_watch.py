"""`escala watch` shows every run from the ends of its files, sorted and filtered, and reads no file as a whole."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from launch.cli import escala
from launch.show.console import PlainConsole
from launch.watch import run_view
from launch.watch.find_runs import find_runs
from launch.watch.live import answer
from launch.watch.run_table import SORTS, STATES, Selection, headline, run_table, sparkline
from launch.watch.run_view import Reader, RunView, sampled_losses
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, Status, append_json


def plant(root: Path, name: str, status: Status | None, steps: int = 0, **last: object) -> RunDir:
    """Leave a run that recorded so many steps."""
    run_dir = RunDir(root / name)
    run_dir.root.mkdir(parents=True)
    run_dir.config.write_text("name: x\n")
    run_dir.plan.write_text(json.dumps({"steps": 100}))
    if status is not None:
        run_dir.write_status(status)
        run_dir.run.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    rows = [{"kind": "train", "step": s, "loss": 9.0 - s * 0.01, "gpu_seconds": 36.0 * s} for s in range(1, steps + 1)]
    if rows:
        rows[-1] |= last
        append_json(run_dir.metrics, *rows)
    return run_dir


@pytest.fixture
def root(tmp_path: Path) -> Path:
    plant(tmp_path, "s/cells/slow", Status.RUNNING, 50, tokens_per_second=10.0, mfu=0.1, seconds_left=90.0)
    plant(tmp_path, "s/cells/fast", Status.RUNNING, 60, tokens_per_second=5e5, mfu=0.5, seconds_left=30.0)
    plant(tmp_path, "s/cells/new", None)
    plant(tmp_path, "s/cells/done", Status.DONE, 100)
    failed = plant(tmp_path, "alone", Status.FAILED, 10)
    failed.record_event("failed", error="RuntimeError: [/planted] \x1b[31m")
    return tmp_path


def told(root: Path, *words: str) -> list[dict]:
    said = CliRunner().invoke(escala, ["watch", *words, "--json", "--runs", str(root)], catch_exceptions=False)
    return json.loads(said.output)


def test_all_runs_are_shown_those_with_trouble_first(root: Path) -> None:
    assert [(row["name"], row["state"]) for row in told(root)] == [
        ("alone", "failed"), ("fast", "running"), ("slow", "running"), ("new", "waiting"), ("done", "done"),
    ]  # fmt: skip
    fast = told(root, "s", "--sort", "speed")[0]
    assert (fast["name"], fast["step"], fast["steps"], fast["mfu"], fast["loss"]) == ("fast", 60, 100, 0.5, 8.4)
    assert [row["name"] for row in told(root, "--state", "running", "--sort", "left")] == ["fast", "slow"]
    assert [row["name"] for row in told(root, "alone")] == ["alone"]


@pytest.mark.parametrize("width", [80, 132])
def test_the_table_fits(root: Path, width: int, capsys: pytest.CaptureFixture[str]) -> None:
    views = Reader(find_runs(root)).views()
    PlainConsole(width=width).print(run_table(Selection().of(views), width))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(cell_len(line.rstrip()) <= width for line in lines)
    assert ("RuntimeError: [/planted]" in lines[1]) == (width == 132)
    assert "60/100" in lines[2] and "500K" in lines[2] and "50.0%" in lines[2] and "30 s" in lines[2]


def test_the_headline_counts_states_and_cost(root: Path) -> None:
    views = Reader(find_runs(root)).views()
    assert headline(views, 5, Selection()) == (
        "5 runs: 1 failed, 2 running, 1 waiting, 1 done; 2.2 GPU-hours; by state"
    )


def test_a_name_that_means_nothing_is_refused_with_the_nearest(root: Path) -> None:
    with pytest.raises(UserError, match=r"no run 'alon'.*'alone'"):
        find_runs(root, ["alon"])
    with pytest.raises(UserError, match="there is no directory"):
        find_runs(root / "none")


def test_a_curve_is_sampled_over_the_whole_record_and_little_of_it_is_read(tmp_path: Path) -> None:
    run_dir = plant(tmp_path, "long", Status.DONE, 20_000)
    losses = sampled_losses(run_dir.metrics, 10)
    assert losses[0] == pytest.approx(8.99) and losses == tuple(sorted(losses, reverse=True))
    assert losses[-1] == pytest.approx(9.0 - 0.01 * 18_000, abs=5)
    before = Path("/proc/self/io").read_text() if Path("/proc/self/io").exists() else ""
    Reader([run_dir.root]).views()
    if before:
        read = [int(text.split("rchar: ")[1].split()[0]) for text in (before, Path("/proc/self/io").read_text())]
        assert read[1] - read[0] < run_dir.metrics.stat().st_size / 5


def test_what_did_not_change_is_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(find_runs(root))
    first = reader.views()
    read: list[str] = []
    whole = run_view.newest_step
    monkeypatch.setattr(run_view, "newest_step", lambda run: read.append(run.root.name) or whole(run))
    monkeypatch.setattr(run_view, "sampled_losses", lambda path: pytest.fail("a curve that did not grow"))
    assert [v.name for v in reader.views()] == [v.name for v in first] and sorted(read) == ["fast", "slow"]


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\n", b"{\n", b'{"kind": "train", "step": "x"}\n' * 3, b"[" * 9000 + b"\n"]
)
def test_damaged_files_hide_no_run(root: Path, content: bytes) -> None:
    for name in ("metrics.jsonl", "plan.json", "run.json", "events.jsonl"):
        (root / "alone" / name).write_bytes(content)
    assert len(told(root)) == 5


def test_keys_sort_filter_and_scroll(root: Path) -> None:
    views = Reader(find_runs(root)).views()
    selection = Selection()
    assert answer("s", selection, views, 10).sort == list(SORTS)[1]
    states = []
    for _ in range(5):
        selection = answer("f", selection, views, 10)
        states.append(selection.state)
    assert states == ["failed", "running", "waiting", "done", None]
    assert answer(" ", selection, views, 3).first == 3 and answer("b", selection, views, 3).first == 0
    assert answer("j", Selection(first=4), views, 3).first == 4, "the last run stays in sight"
    assert answer("x", selection, views, 3) == selection


def test_the_command_offers_what_the_table_knows() -> None:
    from launch.commands import watch

    assert (tuple(SORTS), STATES) == (watch.SORTS, watch.STATES)


def test_a_sparkline_is_as_high_as_its_values() -> None:
    assert sparkline((3.0, 2.0, 1.0)) == "█▅▁" and sparkline((1.0, 1.0)) == "▁▁" and sparkline(()) == ""


def test_every_sort_puts_runs_without_the_value_last() -> None:
    bare, full = RunView("a", "", "a", "done"), RunView("b", "", "b", "done", "", 1, 2, 3.0, 4.0, 0.5, 6.0, 7.0)
    for name in set(SORTS) - {"name", "state"}:
        assert Selection(name).of([bare, full]) == [full, bare], name


def test_in_a_terminal_it_is_live_until_q(root: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "launch", "watch", "--every", "0.2", "--runs", str(root)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    shown, pressed, until = b"", False, time.monotonic() + 60
    try:
        while process.poll() is None and time.monotonic() < until:
            if select.select([master], [], [], 0.1)[0]:  # a full terminal would hold it up
                shown += os.read(master, 65536)
            if b"alone" in shown and not pressed:
                pressed = os.write(master, b"sq") == 2
    except OSError:  # it has closed the terminal
        pass
    finally:
        if time.monotonic() > until:
            process.kill()
    assert process.wait(60) == 0 and b"alone" in shown and b"5 runs" in shown
    os.close(master)
