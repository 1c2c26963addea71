"""How a run stands is asked, never written; a dead run is told from a live one; damage costs a sentence at most."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from launch.cluster import attached, registry
from launch.cluster.job import JobState, JobStatus
from launch.cluster.overview import Row
from launch.cluster.registry import Submitted
from launch.commands.jobs import jobs
from launch.run.run_state import DEAD, begin_again, loss_of_progress, state_of, write_down
from launch.sweep.execute.status import sweep_status
from tests.launch import test_sweep_run
from tests.launch.test_sweep_run import finish, run
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_DIVERGED, EXIT_FENCED
from trainer.contract.plain_json import to_json
from trainer.contract.run_dir import RunDir, Status
from trainer.observe.identity import sign


def running(directory: Path, **signed: object) -> RunDir:
    """Return a run that says that it runs, signed by this very process unless `signed` says otherwise."""
    run_dir = RunDir(directory)
    sign(run_dir)
    run_dir.run.write_text(to_json({**json.loads(run_dir.run.read_text()), **signed}))
    run_dir.write_status(Status.RUNNING)
    return run_dir


def ended_process() -> tuple[int, int]:
    """Return the number and the start of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = int(psutil.Process(child.pid).create_time())
    child.communicate(b"\n")
    return child.pid, started


def test_a_run_whose_process_is_gone_is_dead_and_stays_as_it_is(tmp_path: Path) -> None:
    assert state_of(running(tmp_path / "live")).word == "running"
    pid, started = ended_process()
    dead = running(tmp_path / "dead", pid=pid, process_started=started)
    before = {path: path.read_bytes() for path in sorted(dead.root.iterdir())}
    state = state_of(dead)
    assert (state.word, f"its process {pid} is gone" in state.reason) == (DEAD, True)
    assert {path: path.read_bytes() for path in sorted(dead.root.iterdir())} == before


def test_another_process_with_the_same_number_is_not_the_run(tmp_path: Path) -> None:
    earlier = int(psutil.Process().create_time()) - 3600
    assert state_of(running(tmp_path, pid=os.getpid(), process_started=earlier)).word == DEAD
    for no_number in (-1, 2**70):
        assert state_of(running(tmp_path, pid=no_number)).word == DEAD


def test_what_cannot_be_known_here_is_said(tmp_path: Path) -> None:
    far = state_of(running(tmp_path / "far", host="elsewhere"))
    assert (far.word, far.reason) == ("running", "on elsewhere")
    damaged = running(tmp_path / "damaged")
    damaged.run.write_text("{")
    assert "whether it still does is not known" in state_of(damaged).reason
    (damaged.root / "status").write_text("runnimg")
    assert state_of(damaged).word == "waiting" and "damaged" in state_of(damaged).reason


def test_a_launcher_that_was_killed_is_told_from_one_that_runs(tmp_path: Path) -> None:
    pid, started = ended_process()
    running(tmp_path)
    row = Submitted(f"{socket.gethostname()}:{pid}:{started}", "x", "local", "local", tmp_path, 1, "now")
    state = attached.status(row)
    assert state.state is JobState.FAILED and state.reason.startswith("dead: it was running and its process is gone")


@pytest.mark.parametrize(
    ("key", "value"),
    [("job", 5), ("run_dir", None), ("settings", [1]), ("identity", 3), ("name", None), ("backend", {})],
)
def test_a_record_of_a_job_with_a_wrong_value_is_damaged(tmp_path: Path, key: str, value: object) -> None:
    good = Submitted("h:1:1", "x", "local", "local", tmp_path, 1, "now").to_json()
    (tmp_path / "job.json").write_text(json.dumps({**good, key: value}))
    if key == "run_dir":  # it is where it lies
        assert registry.read(tmp_path) is not None
        return
    with pytest.raises(UserError, match=rf"job.json is not the record of a job \({key}: Input should be"):
        registry.read(tmp_path)


def test_events_that_cannot_be_read_hide_no_run(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    row = Row(Submitted("h:1:1", "x", "local", "local", tmp_path, 1, "now"), JobStatus(JobState.DONE), None)
    assert row.loss_of_progress == f"what was lost is not known: {tmp_path}/events.jsonl: Is a directory"


@pytest.mark.parametrize(
    ("code", "status"), [(-9, Status.FAILED), (EXIT_DIVERGED, Status.DIVERGED), (EXIT_FENCED, Status.RUNNING)]
)
def test_the_launcher_writes_the_last_word_that_a_rank_had_no_time_for(
    tmp_path: Path, code: int, status: Status
) -> None:
    pid, started = ended_process()
    run_dir = running(tmp_path, pid=pid, process_started=started)
    write_down(run_dir, JobStatus(JobState.FAILED, code, reason="rank 0 ended with signal SIGKILL"))
    assert run_dir.read_status() is status
    if status is not Status.RUNNING:
        assert state_of(run_dir).reason == "rank 0 ended with signal SIGKILL"
        begin_again(run_dir)
        assert run_dir.read_status() is Status.PENDING


def test_a_newer_attempt_and_a_rank_that_spoke_are_not_overruled(tmp_path: Path) -> None:
    live = running(tmp_path / "live")
    write_down(live, JobStatus(JobState.FAILED, -9, reason="killed"))
    assert live.read_status() is Status.RUNNING, "this process has begun since"
    done = RunDir(tmp_path / "done")
    done.write_status(Status.DONE)
    write_down(done, JobStatus(JobState.FAILED, 1, reason="a rank crashed at its exit"))
    assert done.read_status() is Status.DONE


def test_lost_progress_is_said_from_the_newest_start(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert loss_of_progress(run_dir) == ""
    run_dir.record_event("resumed", step=30, lost_steps=0, passed_over=[])
    assert loss_of_progress(run_dir) == ""
    over = [{"checkpoint": "step_000000040", "problem": "a.safetensors has another hash"}]
    run_dir.record_event("resumed", step=30, lost_steps=10, passed_over=over)
    text = (
        "went on from step 30: 10 steps are trained again, passed over step_000000040 (a.safetensors has another hash)"
    )
    assert loss_of_progress(run_dir) == text
    run_dir.record_event("began_anew", step=0, lost_steps=40, passed_over=[])
    assert loss_of_progress(run_dir) == "began anew: 40 steps are trained again"


def damages(content: bytes, chance: random.Random, number: int) -> list[bytes]:
    """Return a file with flipped bits, cut, with garbage in it, and empty."""
    flipped = []
    for _ in range(number):
        at = chance.randrange(len(content))
        flipped.append(content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :])
    cut = content[: chance.randrange(len(content))]
    return [*flipped, cut, cut + b"\x00\xff\n" + content[len(cut) :], b"", b"null", b"[1]\n", b"{}\n"]


def test_no_damage_of_a_small_file_gives_a_traceback(tmp_path: Path) -> None:
    """Every small file of a cell, damaged in a fixed sample of ways, through what reads them: words, never a crash."""
    (tmp_path / "s.yaml").write_text(
        to_json({"name": "s", "ranks": 2, "run": test_sweep_run.RUN, "vary": {"seed": [0, 1, 2]}})
    )
    sweep, _ = run(tmp_path / "s", lambda spec, _: finish(spec))
    place = sweep.cells[0].run_dir
    sign(place)
    place.record_event("resumed", step=3, lost_steps=2, passed_over=[{"checkpoint": "x", "problem": "y"}])
    place.record_event("failed", error="why")
    for step in range(1, 4):
        place.metrics.open("a").write(to_json({"kind": "train", "step": step, "loss": 2.0}) + "\n")
    row = Submitted("local:1:2", "x", "local", "local", place.root, 1, "now")
    row.write()
    chance = random.Random(0)
    files = [
        p for p in [*place.root.iterdir(), sweep.ledger] if p.is_file() and p.name not in ("config.yaml", "job.json")
    ]
    assert len(files) == 7
    for path in files:
        whole = path.read_bytes()
        for content in damages(whole, chance, 5):
            path.write_bytes(content)
            shown = CliRunner().invoke(jobs, ["--runs", str(tmp_path / "s"), "--json"])
            assert isinstance(shown.exception, UserError | None), f"{path.name}: {content!r}"
            for status in (*Status, None):
                if path.name != "status" and status is not None:
                    place.write_status(status)
                with suppress(UserError):  # one sentence is a right answer; any other exception is not
                    sweep_status(tmp_path / "s.yaml", (), tmp_path)
                    run(tmp_path / "s", lambda spec, _: finish(spec))
                place.root.joinpath("status").write_bytes(b"done\n")
                if not path.exists() or path.read_bytes() != content:
                    break  # it was written anew
            path.write_bytes(whole)
