"""A detached driver: a session of its own, known by its id, ended by `escala cancel`; its failure is told at once."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from launch.cli import escala
from launch.cluster import attached, registry
from launch.cluster.detached import LOG, detach
from launch.cluster.job import JobState
from trainer.contract.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import signal, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from launch.cluster import attached
from launch.cluster import registry
from launch.cluster.driven import tell
from launch.cluster.job import JobSpec, JobState, JobStatus
run_dir = Path({run_dir!r})
spec = JobSpec("run", ("x",), run_dir)
registry.record(spec, attached.job_id(), cluster="ssh", backend="ssh")
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
tell(run_dir, attached.job_id(), JobStatus(JobState.RUNNING, reason="on h1"))
print("driving", flush=True)
while not stop:
    time.sleep(0.05)
tell(run_dir, attached.job_id(), JobStatus(JobState.CANCELLED, reason="cancelled"))
"""


def test_a_driver_outlives_its_terminal_and_is_cancelled_by_name(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    job = detach([sys.executable, "-c", DRIVER.format(root=str(ROOT), run_dir=str(run_dir))], run_dir)
    process = attached.owner(job)
    assert process is not None
    try:
        row = registry.read(run_dir)
        assert row is not None and row.job == job
        assert os.getsid(process.pid) == process.pid != os.getsid(0), "a hang-up of this terminal does not reach it"
        status = attached.status(row)
        assert (status.state, status.reason) == (JobState.RUNNING, "on h1")
        done = CliRunner().invoke(escala, ["cancel", "run", "--runs", str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        process.wait(30)
        assert attached.status(row).state is JobState.CANCELLED
        assert "driving" in (run_dir / LOG).read_text()
    finally:
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            process.send_signal(signal.SIGKILL)


def test_a_driver_that_cannot_begin_says_why(tmp_path: Path) -> None:
    script = "import sys; print('error: h9 cannot be reached: No route to host', file=sys.stderr); sys.exit(2)"
    with pytest.raises(UserError, match=r"the driver ended with code 2: h9 cannot be reached: No route.*driver\.log"):
        detach([sys.executable, "-c", script], tmp_path / "run")


def test_schedulers_need_no_driver(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("backend: slurm\n")
    words = ["submit", str(ROOT / "configs/run/tiny.yaml"), "--cluster", str(tmp_path / "c.yaml"), "--detach"]
    with pytest.raises(UserError, match="--detach has no effect on slurm"):
        CliRunner().invoke(escala, words, catch_exceptions=False, standalone_mode=False)
