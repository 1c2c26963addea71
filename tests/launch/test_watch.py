"""`escala watch` shows every run from the ends of its files, sorted and filtered, and reads no file as a whole."""

from __future__ import annotations

import itertools
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
from launch.watch.curve import Curve
from launch.watch.diagnosis import diagnose
from launch.watch.find_runs import find_runs
from launch.watch.keys import keys_of
from launch.watch.live import Screen, answer, page
from launch.watch.plot import plot
from launch.watch.run_screen import last_events
from launch.watch.run_table import headline, run_table, short, sparkline
from launch.watch.run_view import Reader, RunView
from launch.watch.selection import SORTS, STATES, Selection
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
    views = Reader(lambda: find_runs(root)).views()
    PlainConsole(width=width).print(run_table(Selection().of(views), width))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(cell_len(line.rstrip()) <= width for line in lines)
    assert ("RuntimeError: [/planted]" in lines[1]) == (width == 132)
    assert "60/100" in lines[2] and "500K" in lines[2] and "50.0%" in lines[2] and "30 s" in lines[2]


def test_the_headline_counts_states_and_cost(root: Path) -> None:
    views = Reader(lambda: find_runs(root)).views()
    assert headline(views, 5, Selection()) == (
        "5 runs: 1 failed, 2 running, 1 waiting, 1 done; 2.2 GPU-hours; by state"
    )


def test_a_name_that_means_nothing_is_refused_with_the_nearest(root: Path) -> None:
    with pytest.raises(UserError, match=r"no run 'alon'.*'alone'"):
        find_runs(root, ["alon"])
    with pytest.raises(UserError, match="there is no directory"):
        find_runs(root / "none")


@pytest.mark.parametrize(
    ("module", "words"),
    [("sample", ["sample", "--prompt", "x"]), ("evaluate", ["evaluate"]), ("live", ["forecast", "--final"])],
)
def test_each_command_takes_the_names_that_watch_shows(
    root: Path, module: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run by its name alone, by its directory, and refused where it means several."""
    asked: list[str] = []

    def started(command: list[str], *, input: bytes) -> subprocess.CompletedProcess[bytes]:
        asked.append(json.loads(input)["run"])
        return subprocess.CompletedProcess(command, 0)

    if module == "live":
        monkeypatch.setattr("launch.commands.forecast.tell_final", lambda run, *_: asked.append(str(run)))
    else:
        monkeypatch.setattr(f"launch.commands.{module}.subprocess.run", started)
    cell = find_runs(root, ["s"])[0]
    for word in (cell.name, str(cell)):
        CliRunner().invoke(escala, [*words, word, "--runs", str(root)], standalone_mode=False, catch_exceptions=False)
    assert asked == [str(cell)] * 2
    refused = CliRunner().invoke(escala, [*words, "s", "--runs", str(root)], standalone_mode=False)
    assert isinstance(refused.exception, UserError) and "'s' means 4 runs" in str(refused.exception)


def test_an_event_of_an_open_run_begins_with_a_short_time(root: Path) -> None:
    run = RunDir(root / "s/cells/fast")
    append_json(run.events, {"time": "2026-11-28T20:45:53+00:00", "event": "saved", "step": 3}, {"event": "odd"})
    assert last_events(run, 2) == ["11-28 20:45:53 saved  step 3", " odd"]


def test_a_name_near_nothing_lists_some_that_are_known(tmp_path: Path) -> None:
    for number in range(60):
        plant(tmp_path, f"run-{number:02d}", None)
    with pytest.raises(UserError, match=r"no run 'zzzz'.*known: run-00, .*, run-23 and 36 more\)$"):
        find_runs(tmp_path, ["zzzz"])


def test_a_run_that_left_its_band_says_so_wherever_it_is_looked_at(root: Path) -> None:
    run = RunDir(root / "s/cells/fast")
    run.record_event("left_band", step=16, test="norm", reasons=["weight decay", "learning rate or warm-up"])
    assert told(root, "fast")[0]["reason"] == "on elsewhere", "without an expected curve the event is another run's"
    run.expected.write_text("{}")
    says = "left its expected band at step 16; likely: weight decay; learning rate or warm-up"
    assert told(root, "fast")[0]["reason"] == says
    found = diagnose(run.root)
    assert (found.cause, found.details[0]) == ("left its band", says) and "settings" in found.helps
    run.record_event("rolled_back", step=10)
    assert told(root, "fast")[0]["reason"] == "on elsewhere" and diagnose(run.root).cause != "left its band"


def test_a_run_with_other_settings_than_those_behind_its_curve_says_so_wherever_it_is_looked_at(root: Path) -> None:
    run = RunDir(root / "s/cells/fast")
    run.expected.write_text("{}")
    apart = "optim.weight_decay: 0.1 there, 0.0 here"
    run.record_event("started", step=0, unlike_expected=apart)
    says = f"has settings or data that the runs behind its expected curve did not have: {apart}"
    assert told(root, "fast")[0]["reason"] == f"on elsewhere; {says}"
    found = diagnose(run.root)
    assert (found.cause, found.details[0]) == ("other settings", says)
    run.record_event("started", step=9)
    assert told(root, "fast")[0]["reason"] == "on elsewhere", "an attempt with their settings"


def test_a_curve_is_sampled_over_the_whole_record_and_little_of_it_is_read(tmp_path: Path) -> None:
    run_dir = plant(tmp_path, "long", Status.DONE, 20_000)
    points = Curve(run_dir.metrics, 20).read()
    steps = [point.step for point in points]
    assert steps[0] == 1 and steps[-1] == 20_000 and 10 <= len(steps) <= 21
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert max(gaps) < 2_000 and all(p.loss == pytest.approx(9.0 - p.step * 0.01) for p in points)
    early = [point.step for point in Curve(run_dir.metrics, 20, early=True).read()]
    assert set(steps) < set(early) and sum(step < steps[1] for step in early) >= 6, "for a logarithmic axis"
    before = Path("/proc/self/io").read_text() if Path("/proc/self/io").exists() else ""
    Reader(lambda: [run_dir.root]).views()
    if before:
        read = [int(text.split("rchar: ")[1].split()[0]) for text in (before, Path("/proc/self/io").read_text())]
        assert read[1] - read[0] < run_dir.metrics.stat().st_size / 5


def test_what_did_not_change_is_not_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader(lambda: find_runs(root))
    first = reader.views()
    read: list[str] = []
    whole = run_view.newest_step
    monkeypatch.setattr(run_view, "newest_step", lambda run: read.append(run.root.name) or whole(run))
    monkeypatch.setattr(Curve, "read", lambda curve: pytest.fail("a curve that did not grow"))
    assert [v.name for v in reader.views()] == [v.name for v in first] and sorted(read) == ["fast", "slow"]


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\n", b"{\n", b'{"kind": "train", "step": "x"}\n' * 3, b"[" * 9000 + b"\n"]
)
def test_damaged_files_hide_no_run(root: Path, content: bytes) -> None:
    for name in ("metrics.jsonl", "plan.json", "run.json", "events.jsonl"):
        (root / "alone" / name).write_bytes(content)
    assert len(told(root)) == 5


def test_of_a_record_that_grew_only_new_places_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = plant(tmp_path, "long", Status.RUNNING, 5_000)
    curve = Curve(run_dir.metrics, 50)
    before = curve.read()
    read: list[int] = []
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, place: read.append(place) or whole(file, size, place))
    append_json(run_dir.metrics, {"kind": "train", "step": 5_001, "loss": 1.0})
    assert curve.read()[:-1] == before[:-1] and len(read) <= 3
    run_dir.metrics.unlink()  # a resumed run replaces it
    append_json(run_dir.metrics, {"kind": "train", "step": 1, "loss": 2.0}, {"kind": "train", "step": 2, "loss": None})
    assert curve.read() == ((1, None, 2.0),)


def test_runs_that_begin_later_are_found(root: Path) -> None:
    reader = Reader(lambda: find_runs(root))
    assert len(reader.views()) == 5
    plant(root, "s/cells/later", None)
    assert len(reader.views()) == 6


def test_keys_sort_filter_find_and_move(root: Path) -> None:
    views = Reader(lambda: find_runs(root)).views()

    def after(*keys: str, screen: Screen = Screen()) -> Screen:
        for key in keys:
            screen = answer(key, screen, views, 2)
        return screen

    def at(screen: Screen) -> str:
        shown = screen.selection.of(views)
        return shown[screen.selection.index(shown)].name

    assert after("s").selection.sort == list(SORTS)[1]
    assert [after(*"f" * n).selection.state for n in range(1, 6)] == ["failed", "running", "waiting", "done", None]
    assert [at(after(*keys)) for keys in ("", "j", " ", " b", "jjjjjjjj", "k")] == [
        "alone", "fast", "slow", "alone", "done", "alone",
    ]  # fmt: skip
    assert at(after("j", "s", "s")) == "fast", "sorting does not move what is pointed at"
    found = after("/", *"fxas", "erase", "erase", "erase", "a", "s", "enter")
    assert (found.selection.text, found.typing) == ("fas", False) and at(found) == "fast"
    assert after("back", screen=found).selection.text == ""
    assert after("x") == Screen() and after("q").left
    inside = after("j", "enter")
    assert inside.inside and not after("q", screen=inside).inside and at(after("j", screen=inside)) == "slow"
    assert after("x", screen=inside).look.log_x


@pytest.mark.parametrize(("width", "height"), [(80, 24), (132, 50), (80, 10)])
def test_inside_a_run_are_its_curve_events_and_the_log_of_each_rank(
    root: Path, width: int, height: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = RunDir(root / "s" / "cells" / "fast")
    run_dir.record_event("saved", step=50, checkpoint="step_50")
    run_dir.logs(2).mkdir(parents=True)
    for rank in (0, 1, 10):
        (run_dir.logs(2) / f"rank_{rank}.log").write_text("old\n" * 99 + f"[red]line of {rank}\x1b[2J\n")
    views = Reader(lambda: find_runs(root)).views()

    def shown(*keys: str) -> list[str]:
        screen = Screen()
        for key in ("j", "enter", *keys):
            screen = answer(key, screen, views, height)
        PlainConsole(width=width, height=height).print(page(views, screen, width, height))
        return capsys.readouterr().out.splitlines()

    lines = shown()
    text = "\n".join(lines)
    assert len(lines) <= height and all(cell_len(line) <= width for line in lines)
    assert "s/fast  running" in lines[0] and "60/100 60%" in text and "saved  step 50  checkpoint step_50" in text
    if height > 10:
        assert "[red]line of 0" in text and "\x1b" not in text and "rank 0 of 3" in text
        assert "line of 10" in "\n".join(shown("r", "r")) and "line of 0" in "\n".join(shown("r", "r", "r"))
        assert any(letter > "\u2800" and letter < "\u2900" for letter in text), "a curve"


def test_a_curve_in_characters_goes_through_its_points() -> None:
    lines = plot([(1, 4.0), (2, 3.0), (3, 2.0)], 40, 9)
    assert lines[0].startswith("       4┤\u2801") or lines[0].startswith("       4┤⠑"), "from the upper left"
    assert lines[-2].startswith("       2┤") and lines[-2].rstrip("\u2800")[-1] in "⡀⢄⠤⣀⢀⠢⡠⠑⢆"
    assert lines[-1].split() == ["└1", "step", "3"] and {len(line) for line in lines[:-1]} == {39 + 1}
    assert plot([(1, 4.0)], 40, 9) == plot([], 40, 9) == ["no curve yet"]
    assert "(log)" in plot([(0, 9.0), (10, 4.0), (1000, 2.0)], 40, 5, log_x=True)[-1]


def test_keys_of_a_terminal_have_names() -> None:
    assert keys_of("j\x1b[A\x1b[6~\r\x7f\x1b") == ["j", "up", "page down", "enter", "erase", "back"]
    assert keys_of("\x1b[15~é") == ["é"], "F5 means nothing"


def test_names_of_cells_are_cut_last() -> None:
    assert short("mixer=lstm-size=100k-seed=1-cc10", 18) == "lstm-100k-1-cc10"
    assert short("mixer=lstm-size=100k-seed=1-cc10", 40) == "mixer=lstm-size=100k-seed=1-cc10"
    assert short("a" * 50, 10) == "a" * 9 + "…"


def test_the_command_offers_what_the_table_knows() -> None:
    from launch.commands import watch

    assert (tuple(SORTS), STATES) == (watch.SORTS, watch.STATES)


def test_a_sparkline_is_as_high_as_its_values() -> None:
    assert sparkline((3.0, 2.0, 1.0)) == "█▅▁" and sparkline((1.0, 1.0)) == "▁▁" and sparkline(()) == ""


def test_the_distance_from_the_expected_curve_has_a_column_where_runs_have_one(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(root, "s/cells/far", Status.RUNNING, 3, off=-4.25)
    views = Reader(lambda: find_runs(root)).views()
    PlainConsole(width=80).print(run_table(Selection("off").of(views), 80))
    lines = capsys.readouterr().out.splitlines()
    assert "off" in lines[0] and lines[1].startswith("far ") and "-4.2σ" in lines[1]
    assert all(cell_len(line) <= 80 for line in lines)


def test_every_sort_puts_runs_without_the_value_last() -> None:
    bare = RunView("a", "", "a", "done")
    numbers = {"step": 1, "loss": 3.0, "off": 1.0, "tokens_per_second": 4.0, "mfu": 0.5, "seconds_left": 6.0}
    full = RunView("b", "", "b", "done", "", **numbers, gpu_seconds=7.0)
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
                pressed = os.write(master, b"s\x1b[B\rqq") == 7
    except OSError:  # it has closed the terminal
        pass
    finally:
        if time.monotonic() > until:
            process.kill()
    assert process.wait(60) == 0 and b"alone" in shown and b"5 runs" in shown
    os.close(master)
