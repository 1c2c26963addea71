"""The local record is whole after any restart, and W&B never stands in its way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from trainer.contract.errors import UserError
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import RunDir, Status
from trainer.observe.console import ConsoleObserver, console_line
from trainer.observe.costs import Costs
from trainer.observe.metrics import METRICS
from trainer.observe.observers import Observers
from trainer.observe.record import Record
from trainer.observe.tensorboard import TensorBoard, check_installed
from trainer.observe.throughput import Throughput
from trainer.observe.wall_time import WallTime
from trainer.observe.wandb_mirror import resolve_mode
from trainer.plan.gpus import gpu_of_driver


class Collector:
    def __init__(self) -> None:
        self.rows: list[dict] = []
        self.exit_code: int | None = None

    def row(self, row: dict) -> None:
        self.rows.append(row)

    def event(self, row: dict) -> None:
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def test_rows_go_to_the_file_and_to_every_observer(tmp_path: Path):
    mirror = Collector()
    record = Observers([Record(RunDir(tmp_path)), mirror], first=True)
    record.row("train", 1, loss=2.0)
    record.row("evaluation", 1, loss=2.5)
    record.finish(0)
    rows = list(rows_of(tmp_path / "metrics.jsonl"))
    assert (
        rows
        == mirror.rows
        == [
            {"kind": "train", "step": 1, "loss": 2.0},
            {"kind": "evaluation", "step": 1, "loss": 2.5},
        ]
    )
    assert mirror.exit_code == 0


def test_other_ranks_write_nothing(tmp_path: Path):
    observers = Observers([Record(RunDir(tmp_path))], first=False)
    observers.row("train", 1, loss=2.0)
    observers.event("started")
    assert list(tmp_path.iterdir()) == []


def test_an_attempt_that_was_replaced_tells_nobody(tmp_path: Path):
    mirror = Collector()
    Observers([mirror], first=True, may_write=lambda: False).row("train", 1, loss=2.0)
    assert mirror.rows == []


def test_a_resumed_record_has_each_step_once_even_after_a_torn_line(tmp_path: Path):
    record = Record(RunDir(tmp_path))
    for step in range(1, 6):
        record.row({"kind": "train", "step": step, "loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as out:
        out.write('{"kind": "train", "step": 6, "lo')
    record.rewind(3)
    for step in range(4, 7):
        record.row({"kind": "train", "step": step, "loss": float(step)})
    assert [row["step"] for row in rows_of(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_the_status_is_one_word(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    assert run_dir.read_status() is None
    run_dir.write_status(Status.PREEMPTED)
    assert (tmp_path / "status").read_text() == "preempted\n"
    assert run_dir.read_status() is Status.PREEMPTED


def test_console_lines_show_what_is_there():
    line = console_line({"kind": "train", "step": 3, "loss": 2.5, "lr": 1e-3, "tokens_per_second": None})
    assert line.split() == ["train", "step", "3", "loss", "2.5000", "lr", "1.00e-03"]
    later = console_line({"kind": "train", "step": 30_000, "loss": 12.5, "lr": 1e-3, "tokens_per_second": None})
    assert len(later) == len(line) and later.index("lr") == line.index("lr")


def test_the_console_says_a_spike_with_its_numbers(capsys):
    numbers = {"signal": "loss", "value": 9.0, "median": 3.0, "limit": 3.2, "deviations": 20.0, "action": "skip"}
    for event in ({"event": "spike", "step": 7, **numbers}, {"event": "spike", "step": 8}, {"event": "saved"}):
        ConsoleObserver().event(event)
    assert capsys.readouterr().err == (
        "warning: spike: step 7: loss 9 is 20.0 standard deviations above the median 3 of the last steps; "
        "guard.spike is skip\n"
    )


def test_the_documented_metrics_are_those_that_are_declared():
    page = (ROOT / "docs" / "run-directory.md").read_text().split("## Rows of `metrics.jsonl`")[1]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", page, flags=re.M)
    declared = [
        (m.key, m.unit, m.better or "", ", ".join(m.shows), "both" if len(m.rows) == 2 else m.rows[0]) for m in METRICS
    ]
    assert rows == declared


def test_throughput_leaves_out_what_is_not_training():
    now = iter([0.0, 2.0, 10.0, 12.0, 50.0, 51.0])
    meter = Throughput(100, clock=lambda: next(now))
    for _ in range(2):
        with meter.step():
            pass
    assert meter.report() == {
        "tokens_per_second": 50.0, "step_seconds": 2.0, "step_seconds_p95": 2.0, "data_seconds": 0.0,
    }  # fmt: skip
    assert meter.report()["tokens_per_second"] is None
    with meter.step():
        pass
    assert (meter.report()["tokens_per_second"], meter.overall) == (100.0, 60.0)


def test_tensorboard_is_refused_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr("trainer.observe.tensorboard.find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package tensorboard is not installed"):
        check_installed()


def test_tensorboard_has_each_step_once_after_restarts(tmp_path: Path):
    """Read back by TensorBoard itself."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run_dir = RunDir(tmp_path)
    run_dir.plan.write_text('{"flops_per_token": {"total": 6}}')
    for attempt, steps in enumerate([range(1, 6), range(4, 9)]):  # the second one went back
        board = TensorBoard(run_dir)
        for step in steps:
            board.row({"kind": "train", "step": step, "tokens": step, "loss": 10.0 * attempt + step})
        board.row({"kind": "train", "step": 8, "loss": float("nan")})
        board.finish(0)
    found = accumulators.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [(scalar.step, scalar.value) for scalar in found.Scalars("train/loss")]
    assert losses == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 14.0), (5, 15.0), (6, 16.0), (7, 17.0), (8, 18.0)]


@pytest.mark.parametrize(
    ("choice", "environment", "mode"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "x"}, "online"),
        ("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}, "disabled"),
        ("offline", {"WANDB_API_KEY": "x"}, "offline"),
    ],
)
def test_the_mode_follows_from_choice_and_credentials(choice, environment, mode, tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert resolve_mode(choice) == mode


def test_step_times_and_waits_are_of_the_interval():
    now = iter([0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 4.0, 4.0])  # a step: begins, waits from, to, ends
    meter = Throughput(100, clock=lambda: next(now))
    for _ in range(2):
        with meter.step(), meter.wait():
            pass
    assert meter.report() == {
        "tokens_per_second": 50.0, "step_seconds": 3.0, "step_seconds_p95": 3.0, "data_seconds": 1.75,
    }  # fmt: skip


def test_the_account_of_the_wall_time_goes_on_over_attempts_and_names_what_a_restart_lost():
    now = [100.0]

    def spend(wall: WallTime, part: str, seconds: float) -> None:
        with wall.part(part):
            now[0] += seconds

    joules = [0.0]
    costs = Costs("gpu_seconds", 2, 3.6, lambda: joules[0])
    first = WallTime(costs, [], 0, started=90.0, clock=lambda: now[0])
    rows = []
    for step in (1, 2, 3):
        spend(first, "train_seconds", 10.0)
        joules[0] += 700.0
        rows.append({"kind": "train", "step": step, **first.row(waited=float(step))})
        spend(first, "save_seconds", 5.0)
    assert rows[-1] == {
        "kind": "train", "step": 3, "wall_seconds": 50.0, "gpu_seconds": 100.0, "cost": 0.1,
        "energy_joules": 2100.0, "train_seconds": 27.0,
        "start_seconds": 10.0, "wait_seconds": 3.0, "save_seconds": 10.0, "evaluation_seconds": 0.0,
        "lost_seconds": 0.0, "goodput": 0.54,
    }  # fmt: skip
    now[0] = 1000.0  # nobody holds the machine between attempts
    second = WallTime(Costs("gpu_seconds", 4, 36.0), rows, 1, started=1000.0, clock=lambda: now[0])
    spend(second, "train_seconds", 10.0)
    total = second.row(waited=0.0)
    assert (total["lost_seconds"], total["train_seconds"], total["wall_seconds"]) == (18.0, 19.0, 60.0)
    assert total["gpu_seconds"] == 100.0 + 40.0, "what is lost was paid for"
    assert total["cost"] == 0.1 + 0.4, "each attempt at its own price"
    assert total["energy_joules"] == 2100.0, "kept where the machine tells no more"
    now[0] = 2000.0
    third = WallTime(Costs("gpu_seconds", 2), rows, 3, started=2000.0, held=80.0, clock=lambda: now[0])
    late = third.row(waited=0.0)
    assert (late["wall_seconds"], late["gpu_seconds"], late["lost_seconds"]) == (80.0, 160.0, 0.0), "after the last row"
    assert "cost" not in WallTime(Costs("core_seconds", 4), [], 0, started=0.0).row(0.0)


@pytest.mark.parametrize(
    ("driver", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-SXM"), ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM-40GB"),
        ("NVIDIA H200", "H200-SXM"), ("NVIDIA A10", "A10"), ("NVIDIA A100-PCIE-40GB", None), ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"), ("Tesla V100-SXM2-32GB", "V100-SXM-32GB"),
    ],
)  # fmt: skip
def test_gpus_are_known_by_the_names_of_their_drivers(driver: str, kind: str | None):
    found = gpu_of_driver(driver)
    assert (found.name if found else None) == kind
