"""W&B has each row of metrics.jsonl once, whatever the server and the processes go through, and nobody waits for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from launch.cli import escala
from tests.scaling.runs import ladder_rows
from tests.wandb_server import WandbServer
from trainer.contract.errors import UserError
from trainer.contract.plain_json import read_lines
from trainer.contract.run_dir import RunDir, Status, append_json
from trainer.observe.record import Record
from trainer.observe.wandb_mirror import WandbMirror
from trainer.observe.wandb_stop import Stop

SECRET = "planted-secret-8d1f0c"
RUN = "abc123"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    double = WandbServer()
    double.start()
    monkeypatch.setenv("WANDB_BASE_URL", double.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL", "1")  # whole seconds; the default is 15
    monkeypatch.setenv("MY_SECRET_TOKEN", SECRET)
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # the client's mark of a service that an earlier test started
    yield double
    double.stop()


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    found = RunDir(tmp_path / "runs" / "tiny")
    found.root.mkdir(parents=True)
    tracking = {"project": "p", "group": "ladder", "tags": ["a", SECRET], "wandb": "auto"}
    settings = {"name": f"tiny {SECRET}", "tracking": tracking, "data": {"token": SECRET, "path": f"s3://x/{SECRET}"}}
    found.config.write_text(yaml.safe_dump(settings))
    found.plan.write_text(json.dumps({"flops_per_token": {"total": 6}, "flops": 600.0, "world": 2, "steps": 9}))
    found.run.write_text(json.dumps({"wandb_id": RUN}))
    found.write_status(Status.RUNNING)
    return found


def train(run_dir: RunDir, first: int, last: int) -> None:
    """Write the rows of these steps as a run does, with an evaluation at every fourth."""
    record = Record(run_dir)
    record.rewind(first - 1)
    for step in range(first, last + 1):
        loss = 5.0 / step
        record.row({"kind": "train", "step": step, "tokens": 10 * step, "loss": loss})
        if step % 4 == 0:
            record.row(
                {"kind": "evaluation", "step": step, "tokens": 10 * step, "eval_set": "validation", "loss": loss}
            )


def expected(run_dir: RunDir) -> list[tuple[str, int, float]]:
    return sorted((row["kind"], row["step"], row["loss"]) for row in read_lines(run_dir.metrics).rows)


def mirrored(server: WandbServer) -> list[tuple[str, int, float]]:
    found = []
    for row in server.history(RUN):
        kind = "train" if "train/loss" in row else "evaluation"
        found.append((kind, row["step"], row["train/loss" if kind == "train" else "evaluation/validation/loss"]))
    return sorted(found)


def sync(run_dir: RunDir) -> str:
    said = CliRunner().invoke(
        escala, ["wandb", "sync", str(run_dir.root)], catch_exceptions=True, standalone_mode=False
    )
    return said.output + (f"error: {said.exception}" if isinstance(said.exception, UserError) else "")


def until(condition: Callable[[], bool], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def senders(run_dir: RunDir) -> list[int]:
    """Return the processes that send this run, by their command lines."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"trainer.observe.wandb_sender" in words and str(run_dir.root).encode() in words:
            found.append(int(place.name))
    return found


def ended(mirror: WandbMirror) -> None:
    assert mirror._sender is not None
    mirror._sender.wait(180)


def test_a_run_without_credentials_is_sent_afterwards_and_only_once(server: WandbServer, run_dir: RunDir) -> None:
    train(run_dir, 1, 9)
    assert "sent 11 rows, W&B has all 11" in sync(run_dir)
    assert mirrored(server) == expected(run_dir)
    assert "sent 0 rows" in sync(run_dir)
    assert mirrored(server) == expected(run_dir)
    assert server.runs[RUN]["exitcode"] is None, "the run is not over"
    train(run_dir, 7, 12)  # restarted from a checkpoint
    run_dir.write_status(Status.DONE)
    run_dir.result.write_text(
        json.dumps({"evaluations": [{"eval_set": "validation", "loss": 0.0}], "gpu_seconds": 3600, "cost": 3.0})
    )
    assert "sent 4 rows" in sync(run_dir)
    assert mirrored(server) == expected(run_dir)
    run = server.runs[RUN]
    assert (run["group"], run["jobType"], run["tags"], run["exitcode"]) == ("ladder", "cell", ["a", "***"], 0)
    assert run["config"]["plan"]["value"]["flops"] == 600.0
    assert run["summary"]["final/validation/perplexity"] == 1.0 and run["summary"]["final/gpu_hours"] == 1.0
    assert run["summary"]["final/cost"] == 3.0
    assert server.history(RUN)[-1]["flops"] == 12 * 10 * 6, "an axis on which sizes overlay"
    assert (
        not [p for p in server.payloads if SECRET.encode() in p]
        and SECRET not in (run_dir.root / "wandb.jsonl").read_text()
    )


def test_a_live_run_is_followed_through_a_restart_and_a_kill_of_its_sender(
    server: WandbServer, run_dir: RunDir
) -> None:
    first = WandbMirror(run_dir)
    train(run_dir, 1, 6)
    until(lambda: RUN in server.runs and len(server.runs[RUN]["history"]) == 7)
    assert first._sender is not None
    os.kill(first._sender.pid, signal.SIGKILL)  # as a node does that is lost, with rows on their way
    train(run_dir, 5, 9)
    first._sender.wait()
    second = WandbMirror(run_dir)
    train(run_dir, 9, 12)
    run_dir.write_status(Status.DONE)
    server.hold()
    second.finish(0)  # nobody waits for an answer
    server.release()
    ended(second)
    assert mirrored(server) == expected(run_dir)
    assert "sent 0 rows" in sync(run_dir)


def test_what_a_person_must_know_is_an_alert(
    server: WandbServer, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sender: alerts of this and of an earlier attempt, the load of the machine, artifacts at the end."""
    monkeypatch.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.5")
    for place in (run_dir.tokenizer, run_dir.checkpoints / "step_000000004"):
        place.mkdir(parents=True)
        (place / "content.bin").write_bytes(b"not for W&B")
    run_dir.record_event("failed", error=f"no room in {SECRET}")
    mirror = WandbMirror(run_dir)
    train(run_dir, 1, 4)
    until(lambda: len(server.alerts) == 1)
    numbers = {"signal": "loss", "value": 9.0, "median": 3.0, "limit": 3.2, "deviations": 20.0}
    run_dir.record_event("spike", step=4, **numbers, in_a_row=1, action="continue")
    run_dir.record_event("saved", step=4)
    until(lambda: len(server.alerts) == 2 and bool(server.runs[RUN]["events"]))
    run_dir.record_event("done", step=4)
    mirror.finish(0)
    run_dir.write_status(Status.DONE)  # a run says so last
    ended(mirror)
    assert [(alert["title"], alert["severity"]) for alert in server.alerts] == [
        ("failed", "ERROR"), ("spike", "WARN"), ("finished", "INFO"),
    ]  # fmt: skip
    assert "9 is 20.0 standard deviations above the median 3" in server.alerts[1]["text"]
    assert server.runs[RUN]["exitcode"] == 0 and mirrored(server) == expected(run_dir)
    assert any("system.cpu" in key for row in server.runs[RUN]["events"] for key in row)
    kinds = sorted(one["artifactTypeName"] for one in server.artifacts)  # the client uploads them side by side
    assert kinds == ["checkpoint", "tokenizer"]
    manifests = b"".join(server.uploads.values()).decode()
    assert (run_dir.checkpoints / "step_000000004").as_uri() in manifests
    assert not [p for p in server.payloads if SECRET.encode() in p or b"not for W&B" in p]


def test_the_load_of_another_node_is_a_run_of_its_own(
    server: WandbServer, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.5")
    mirror = WandbMirror(run_dir, node="node2")
    name = f"{RUN}-node2"
    until(lambda: name in server.runs and bool(server.runs[name]["events"]))
    mirror.finish(0)
    ended(mirror)
    run = server.runs[name]
    assert (run["group"], run["jobType"], run["history"], run["exitcode"]) == ("ladder", "node", [], 0)
    assert RUN not in server.runs


def test_a_tag_in_wandb_stops_the_run_once(
    server: WandbServer, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.run(RUN)["tags"] = ["a"]
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("trainer.observe.wandb_stop.os.kill", lambda *call: killed.append(call))
    stop = Stop(run_dir, os.getppid(), every=0.2)
    stop.watch(f"local/p/{RUN}")
    until(lambda: server.requests.count("Run") > 1)
    assert not killed
    server.runs[RUN]["tags"] = ["a", "stop"]
    until(lambda: bool(killed))
    stop.ask()
    assert killed == [(os.getppid(), signal.SIGUSR1)]
    assert "W&B, the tag stop" in run_dir.events.read_text()


def test_a_sweep_is_a_run_beside_its_cells(server: WandbServer, run_dir: RunDir, tmp_path: Path) -> None:
    """Read back from what the client uploaded: table, scatter, the law's line, and the report's bytes."""
    sweep = tmp_path / "runs" / "ladder"
    cell = sweep / "cells" / "one"
    cell.parent.mkdir(parents=True)
    run_dir.root.rename(cell)
    train(RunDir(cell), 1, 2)
    rows = ladder_rows(noise=0.0)
    append_json(sweep / "ledger.jsonl", *({**row, "run_dir": SECRET} for row in rows))
    (sweep / "report").mkdir()
    (sweep / "report" / "report.html").write_text("<p>the law</p>")
    for _ in range(2):
        said = CliRunner().invoke(escala, ["wandb", "sync", str(sweep)], standalone_mode=False)
        assert f"ladder: sent the sweep, {len(rows)} cells" in said.output, (said.output, said.exception)
    (name,) = server.runs.keys() - {RUN}
    run = server.runs[name]
    assert (run["group"], run["jobType"], run["exitcode"]) == ("ladder", "sweep", 0)
    assert run["summary"]["cells"] == run["summary"]["done"] == len(rows)
    tables = [json.loads(data) for place, data in server.uploads.items() if place.endswith("table.json")]
    by_columns = {tuple(table["columns"]): table["data"] for table in tables}
    points, line = by_columns["name", "params_total", "perplexity"], by_columns["params_total", "perplexity"]
    (cells,) = [data for columns, data in by_columns.items() if "status" in columns]
    assert len(cells) == len(points) == len(rows) and len(line) == 64
    assert [line[0][0], line[-1][0]] == [min(p[1] for p in points), max(p[1] for p in points)]
    assert line[0][1] == pytest.approx(max(p[2] for p in points), rel=0.01), "the law passes through the cells"
    assert b"<p>the law</p>" in server.uploads.values()
    assert not [p for p in server.payloads if SECRET.encode() in p]


def test_a_sync_ends_at_the_first_refusal(server: WandbServer, run_dir: RunDir, tmp_path: Path) -> None:
    train(run_dir, 1, 2)
    shutil.copytree(run_dir.root, tmp_path / "runs" / "other")
    server.stop()
    said = CliRunner().invoke(escala, ["wandb", "sync", str(tmp_path / "runs")], standalone_mode=False)
    assert isinstance(said.exception, UserError) and "Connection refused; 1 other runs were not" in str(said.exception)
    assert said.output.count("\n") == 1


# A rank as W&B sees it: it opens the mirror, records steps as they come, ends. It is told when to take the next ones.
RANK = """
import sys
from pathlib import Path
from tests.unit.test_wandb_mirror import train
from trainer.contract.run_dir import RunDir, Status
from trainer.observe.wandb_mirror import WandbMirror
run_dir = RunDir(Path(sys.argv[1]))
mirror = WandbMirror(run_dir)
for line in sys.stdin:
    train(run_dir, *map(int, line.split()))
    print("taken", flush=True)
mirror.finish(0)
run_dir.write_status(Status.DONE)
"""


class Rank:
    """A training process that mirrors its run."""

    def __init__(self, run_dir: RunDir) -> None:
        command = [sys.executable, "-c", RANK, str(run_dir.root)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def take(self, first: int, last: int) -> None:
        """Take these steps, and return once they are recorded."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(first, last, file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "taken\n"

    def end(self) -> int:
        """Say that there are no more steps, and wait until the process has ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait()


FAULTS: dict[str, Callable[[WandbServer], None]] = {
    "answers nothing": WandbServer.hold,
    "dies": WandbServer.stop,
    **{str(status): lambda server, status=status: server.fault(status) for status in (401, 429, 500)},
}


@pytest.mark.parametrize(
    ("fault", "from_the_beginning"),
    [
        ("answers nothing", True), ("dies", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in product(("401", "429", "500"), (True, False))),
        pytest.param("answers nothing", False, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_no_step_and_no_end_of_a_run_waits_for_a_bad_server_and_the_sync_sends_all(
    server: WandbServer, run_dir: RunDir, fault: str, from_the_beginning: bool
) -> None:
    """Everything that the run does comes to its end while the server gives no good answer: so it waits for none."""
    rank = Rank(run_dir)
    if not from_the_beginning:
        rank.take(1, 4)
        until(lambda: RUN in server.runs and len(server.runs[RUN]["history"]) == 5)
    FAULTS[fault](server)
    rank.take(1 if from_the_beginning else 5, 9)
    assert rank.end() == 0
    assert server.answers == 0 if from_the_beginning else len(server.runs[RUN]["history"]) == 5, "none came since"
    for pid in senders(run_dir):
        os.kill(pid, signal.SIGKILL)  # it would try again for minutes
    server.stop()
    server.fault()
    server.start()
    assert "W&B has all 11" in sync(run_dir)
    assert mirrored(server) == expected(run_dir)
    assert "sent 0 rows, W&B has all 11" in sync(run_dir)


def test_a_server_that_is_away_is_named_and_nothing_is_lost(server: WandbServer, run_dir: RunDir) -> None:
    server.stop()
    train(run_dir, 1, 3)
    mirror = WandbMirror(run_dir)
    mirror.finish(1)
    assert mirror._sender is not None
    mirror._sender.kill()
    mirror._sender.wait()
    server.start()
    assert "sent 3 rows" in sync(run_dir)
    assert mirrored(server) == expected(run_dir)


def test_restarts_whose_senders_are_killed_are_one_run(server: WandbServer, run_dir: RunDir) -> None:
    """Each attempt begins again two steps before the last one's end, and its sender is killed at some request.

    A sync makes eight requests to send the rows, of which the last brings them, and eight to ask what arrived.
    """
    step = 0
    for fatal in (1, 2, 3, 5, 8, 9, 11, 16):
        train(run_dir, step + 1, step + 5)
        step += 3
        reached = len(server.payloads) + fatal
        command = [sys.executable, "-m", "trainer.observe.wandb_sender", str(run_dir.root), "--once"]
        sender = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        server.before_answer = lambda sender=sender, reached=reached: (
            sender.kill() if len(server.payloads) >= reached else None
        )
        assert sender.wait(180) == -signal.SIGKILL, "it made fewer requests"
    server.before_answer = lambda: None
    assert "W&B has all" in sync(run_dir)
    assert list(server.runs) == [RUN]
    rows = mirrored(server)
    assert len({row[:2] for row in rows}) == len(rows), "no row twice"
    assert set(expected(run_dir)) <= set(rows), "none is missing"
