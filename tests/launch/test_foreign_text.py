"""Text that others wrote is shown as it is by every table and message: no markup is read, no terminal obeys it."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

import launch.show.console
from launch.cli import escala, main
from launch.cluster.job import JobState, JobStatus
from launch.cluster.preflight.checks import Check, Level
from launch.cluster.registry import Submitted
from launch.commands import design, keys
from launch.planner.table import layouts_table
from launch.run.data_story import print_mixture, print_samples, print_summary
from launch.scaling.report.console import grid_text
from launch.scaling.report.model import Grid
from launch.show.console import PlainConsole
from launch.show.plan_table import run_table, sweep_table
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.execute.decide import Decision, Seen, Then
from launch.sweep.execute.progress import Shown, Watcher
from launch.sweep.execute.report import tell
from tests.launch.test_sweep_run import cells
from trainer.contract.errors import UserError
from trainer.contract.plain_text import plain
from trainer.contract.run_dir import RunDir, Status
from trainer.plan.plan import make_plan

ROOT = Path(__file__).resolve().parents[2]
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"
FOREIGN = f"{GLOO} [bold]b[/x] :boom: \x1b[31mred\x1b[0m \x1b[2J\x1b]0;t\x07 \x9b5A \u202ex\r\x08\x00"
SHOWN = [GLOO.split()[0], "[bold]b[/x]", ":boom:", "red"]


def check(text: str, *, styled: bool = False) -> None:
    """Assert that everything is there to read and nothing to obey. Folded cells are read without their breaks."""
    if styled:
        text = re.sub(r"\x1b\[[0-9;?]*[mhlKAJ]", "", text).replace("\r", "")
    bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]
    assert not bad, f"{bad} in {text!r}"
    joined = re.sub(r"[\s│┃]+", "", text)
    assert all(word in joined for word in SHOWN), text


@given(st.text())
def test_plain_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = plain(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in shown)
    assert plain(shown) == shown
    if text.isprintable():
        assert shown == text


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[PlainConsole]:
    """The console of every command, on a file, as wide as is needed."""
    shown = PlainConsole(file=io.StringIO(), width=2000)
    monkeypatch.setattr(launch.show.console, "make_console", lambda **_: shown)
    for module in ("launch.run.data_story", "launch.commands.design"):
        monkeypatch.setattr(f"{module}.make_console", lambda **_: shown)
    yield shown


def printed(console: PlainConsole) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


@pytest.mark.parametrize("part", ["title", "caption", "column", "cell", "text", "line", "rule", "tree", "styled"])
def test_no_part_of_what_is_printed_is_markup(console: PlainConsole, part: str) -> None:
    table = Table(**{part: FOREIGN} if part in ("title", "caption") else {})
    table.add_column(FOREIGN if part == "column" else "name")
    table.add_row(FOREIGN if part == "cell" else Text(FOREIGN) if part == "text" else "x")
    if part == "line":
        console.print(FOREIGN, markup=True)
    elif part == "styled":
        console.print(FOREIGN, style="red")
    elif part == "rule":
        console.rule(FOREIGN)
    elif part == "tree":
        tree = Tree(FOREIGN)
        tree.add("x")
        console.print(tree)
    else:
        console.print(table)
    check(printed(console))


def plans(name: str) -> dict[str, Any]:
    cell = cells()[0]
    plan = make_plan(cell.config, world=2)
    return {name: dataclasses.replace(plan, name=name)}


def failed_cell(tmp_path: Path) -> tuple[PlannedCell, Seen]:
    cell = dataclasses.replace(cells()[0], id=FOREIGN)
    run_dir = RunDir(tmp_path / "cell")
    run_dir.write_status(Status.FAILED)
    run_dir.record_event("failed", error=FOREIGN)
    seen = Seen(FOREIGN, Status.FAILED, JobStatus(JobState.FAILED, reason=FOREIGN), starts=1)
    return PlannedCell(cell, make_plan(cell.config, world=2), run_dir), seen


def watch(console: PlainConsole, tmp_path: Path, live: bool) -> None:
    cell, seen = failed_cell(tmp_path)
    watcher = Watcher(console, [cell], {})
    if live:
        console.print(watcher._table([Shown(cell, seen, None)]))
    else:
        watcher.update([seen])


def show_ends(console: PlainConsole, tmp_path: Path) -> None:
    cell, seen = failed_cell(tmp_path)
    tell(Decision((seen,), Then.FINISH), SimpleNamespace(cells=[cell]), console)  # type: ignore[arg-type]


def show_designs() -> None:
    cell = SimpleNamespace(N=1e6, D=2e7, cost=1e14, trunk=FOREIGN)
    one = SimpleNamespace(name=FOREIGN, cells=[cell], cost=1e14, sd_log_n=1, sd_log_ratio=1, sd_loss=1, why_not=FOREIGN)
    design._show([one], FOREIGN, 1e15, "head")  # type: ignore[list-item]


COUNTS = {"shards": 1, "documents": 1, "tokens": 10, "text_bytes": 10, "bytes_per_token": 1.0}
SET = {
    "complete": True,
    "tokenizer": {"hash": FOREIGN, "vocab_size": 1, "dtype": "uint16"},
    "data_hash": FOREIGN,
    "splits": {"train": {**COUNTS, "sources": {FOREIGN: COUNTS, "b": COUNTS}}},
    "report": {FOREIGN: {"documents_read": 1, "dropped_because_held_out": 1}},
}
SECTION = SimpleNamespace(
    sources=[SimpleNamespace(tag=FOREIGN, weight=1.0), SimpleNamespace(tag="b", weight=1.0)], stages=[]
)
NO_LAYOUT = SimpleNamespace(ranked=[], refused=[])


def layouts() -> Any:
    zero = SimpleNamespace(total=1.0, by_part=lambda: {"total": 1.0})
    layout = SimpleNamespace(
        data=1,
        sequence=1,
        tensor=1,
        zero_stage=1,
        micro_batch=1,
        accumulation=1,
        recompute=FOREIGN,
        settings=lambda: [FOREIGN],
    )
    best = SimpleNamespace(
        layout=layout, memory={"total": 1}, time=zero, tokens_per_second=1.0, mfu=0.5, hours=1.0, cost=None
    )
    refused = [SimpleNamespace(layout=FOREIGN, reason=FOREIGN)]
    gpu = SimpleNamespace(name=FOREIGN)
    return SimpleNamespace(ranked=[best], refused=refused, best=best, world=1, gpu=gpu, notes=[FOREIGN])


@pytest.mark.parametrize(
    "show",
    [
        lambda c, _: c.print(run_table(plans(FOREIGN)[FOREIGN], 1.0)),
        lambda c, _: c.print(sweep_table(plans(FOREIGN), {}, 2000)),
        lambda c, _: c.print(grid_text(Grid([FOREIGN], [[FOREIGN]], FOREIGN), FOREIGN)),
        lambda c, _: c.print(layouts_table(layouts())),
        lambda c, _: print_summary(Path(FOREIGN), SET),
        lambda c, _: print_mixture(SECTION, SET),  # type: ignore[arg-type]
        lambda c, _: print_samples([{"source": FOREIGN, "token": 1, "text": FOREIGN}]),
        lambda c, _: keys._print(
            [{"key": FOREIGN, "values": FOREIGN, "required": False, "default": 1, "meaning": FOREIGN}]
        ),
        lambda c, _: show_designs(),
        lambda c, d: watch(c, d, live=False),
        lambda c, d: watch(c, d, live=True),
        show_ends,
    ],
    ids=["plan", "sweep", "grid", "layouts", "data", "mixture", "samples", "keys", "designs", "watch", "live", "ends"],
)
def test_every_table_shows_foreign_text(console: PlainConsole, tmp_path: Path, show: Any) -> None:
    show(console, tmp_path)
    check(printed(console))


def failed_run(runs: Path, name: str = "a") -> Path:
    """A run that failed with a foreign message, as the agents and the launcher leave it."""
    run_dir = runs / "a"
    logs = run_dir / "logs" / "1"
    logs.mkdir(parents=True)
    RunDir(run_dir).write_status(Status.FAILED)
    row = {"rank": 1, "host": "h1", "code": 1, "signal": None, "message": FOREIGN, "time": 1.0}
    (logs / "failure_h1.json").write_text(json.dumps(row))
    Submitted("host:1:1", name, "local", "local", run_dir, 2, "2026-01-01T00:00:00+00:00").write()
    return run_dir


def test_jobs_lists_a_failure_with_brackets(tmp_path: Path) -> None:
    failed_run(tmp_path, name="[/x]\x1b[2J")
    done = CliRunner().invoke(escala, ["jobs", "--runs", str(tmp_path)])
    assert done.exit_code == 0, done.output
    check(done.output)
    assert "[/x]" in done.output and "rank 1 on h1" in done.output


def test_an_error_on_the_command_line_is_plain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def fail(*_: object, **__: object) -> None:
        raise UserError(FOREIGN)

    monkeypatch.setattr(escala, "main", fail)
    with pytest.raises(SystemExit) as stop:
        main(["jobs"])
    assert stop.value.code == 2
    check(capsys.readouterr().err)


def test_preflight_prints_what_nodes_said(capsys: pytest.CaptureFixture) -> None:
    from launch.commands.preflight import _print

    _print([Check("disk", Level.FAIL, FOREIGN, FOREIGN)], [FOREIGN])
    said = capsys.readouterr()
    check(said.out)
    check(said.err)


def test_all_output_of_rich_goes_through_the_plain_console() -> None:
    """A console of one's own, rich's print, or a string that is read as markup would read foreign text as markup."""
    own = re.compile(r"(?<![A-Za-z])Console\(|from rich import print|rich\.print\(|from_markup|from_ansi|TextColumn\(")
    files = [p for folder in ("launch", "trainer", "benchmarks") for p in (ROOT / folder).rglob("*.py")]
    plain = {ROOT / "launch" / "show" / "console.py", ROOT / "trainer" / "data" / "prepare" / "progress.py"}
    assert [str(p) for p in files if p not in plain and own.search(p.read_text())] == []
