"""The files of a run are valid whatever is written, read whatever became of them, and never end a run."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.contract.errors import UserError, os_error_text
from trainer.contract.plain_json import DamagedFileError, read_lines, read_object, to_json
from trainer.contract.run_dir import RunDir, Status, append_json, write_atomically
from trainer.observe import journal as journal_module
from trainer.observe.identity import sign, wandb_id
from trainer.observe.journal import Journal
from trainer.observe.observers import Observers
from trainer.observe.record import Record

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@contextmanager
def room(size: int) -> Iterator[None]:
    """Have no file grow beyond `size`: to a program, a full disk that takes the part for which there is room."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "non_finite"), VALUES, max_size=4))
def test_whatever_is_written_is_valid_json_and_says_what_was_not_finite(values: dict) -> None:
    text = to_json(values)
    text.encode()
    found = json.loads(text, parse_constant=refuse)
    words = found.pop("non_finite", {})
    assert set(found) == set(values)
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            assert found[key] is None and words[key] == str(value)
        elif not isinstance(value, dict | list):
            assert found[key] == value


def test_a_torn_line_swallows_no_row(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    append_json(path, {"a": 3})
    assert [row["a"] for row in read_lines(path).rows] == [1, 3] and read_lines(path).damaged == 1


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n[1]\n{"step": }\n' + b"[" * 10_000 + b'\n\n{"step": 2}\n{"step": 3')
    assert read_lines(path).rows == [{"step": 1}, {"step": 2}] and read_lines(path).damaged == 4
    Record(RunDir(tmp_path)).rewind(1)
    assert read_lines(path).rows == [{"step": 1}] and read_lines(path).damaged == 0


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b"{", b'{"b": 1}', b"NaN", b"[" * 10_000])
def test_a_damaged_object_is_one_sentence_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"x\.json is damaged: ") as error:
        read_object(tmp_path / "x.json", "a")
    assert isinstance(error.value, UserError)


def test_a_full_disk_delays_rows_and_loses_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = Observers([Record(RunDir(tmp_path))], first=True)
    record.row("train", 1, loss=5.0)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    with room(size + 10):  # ten bytes of the next row fit
        for step in range(2, 6):
            record.row("train", step, loss=float("nan"))
            record.event("saved", step=step)
        assert (tmp_path / "metrics.jsonl").stat().st_size == size, "no row is torn"
    record.row("train", 6, loss=4.0)
    record.event("saved", step=6)
    record.finish(0)
    rows = read_lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows.rows] == [1, 2, 3, 4, 5, 6] and rows.damaged == 0
    assert rows.rows[1] == {"kind": "train", "step": 2, "loss": None, "non_finite": {"loss": "nan"}}
    told = [row["text"] for row in read_lines(tmp_path / "events.jsonl").rows if row["event"] == "records_waited"]
    assert "metrics.jsonl can be written again: 4 rows waited, 0 were dropped" in told
    assert capsys.readouterr().err.count("metrics.jsonl cannot be written") == 1, "said once, not at every step"


def test_what_does_not_fit_into_memory_is_dropped_with_a_count(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").symlink_to("/dev/full")
    journal = Journal(tmp_path / "x.jsonl", most=3)
    for step in range(5):
        assert journal.write({"step": step}) is None
    (tmp_path / "x.jsonl").unlink()
    assert journal.write({"step": 5}) == "x.jsonl can be written again: 3 rows waited, 3 were dropped"
    assert [row["step"] for row in read_lines(tmp_path / "x.jsonl").rows] == [3, 4, 5]


def test_what_two_threads_tell_is_recorded_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint's thread says `saved` while the run says `step_skipped`: one was lost, or written twice."""
    observers = Observers([Record(RunDir(tmp_path))], first=True)
    other = threading.Thread(target=observers.event, args=("saved",))

    def interrupted(path: Path, *rows: dict[str, object]) -> None:
        if not other.ident:
            other.start()
            other.join(0.2)  # all that it can do by now
        append_json(path, *rows)

    monkeypatch.setattr(journal_module, "append_json", interrupted)
    observers.event("step_skipped")
    other.join()
    assert [row["event"] for row in read_lines(tmp_path / "events.jsonl").rows] == ["step_skipped", "saved"]


def test_a_failed_replacement_leaves_the_old_text_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")
    with room(2), pytest.raises(OSError, match=r"result\.json"):
        write_atomically(path, "newer")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_status_that_is_no_word_counts_as_none(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    for content in (b"", b"dome\n", b"\xff\xff"):
        (tmp_path / "status").write_bytes(content)
        assert run_dir.read_status() is None
    run_dir.write_status(Status.DONE)
    assert run_dir.read_status() is Status.DONE


def test_the_id_in_wandb_outlives_attempts_and_a_damaged_file_gets_a_new_one(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    sign(run_dir)
    first = wandb_id(run_dir)
    sign(run_dir)
    assert wandb_id(run_dir) == first and read_object(run_dir.run)["pid"] == os.getpid()
    run_dir.run.write_text("{")
    sign(run_dir)
    assert wandb_id(run_dir) != first


def test_an_error_of_the_system_says_file_reason_and_remedy() -> None:
    assert os_error_text(OSError(28, "No space left on device", "/runs/x")) == (
        "/runs/x: No space left on device; make room there, or name a directory on another disk"
    )
    assert os_error_text(OSError("odd")) == "odd"


def test_a_log_on_a_full_disk_ends_no_rank(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trainer.node.rank import redirect\n"
        "redirect(Path('/dev/full'))\n"
        "print('x' * 10_000, file=sys.stderr, flush=True); print('y')\n"
        f"Path({str(tmp_path / 'end')!r}).touch()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert (tmp_path / "end").exists()
