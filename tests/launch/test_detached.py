"""A detached driver: a session of its own, known by its id, ended by `escala cancel`; its failure is told at once."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import signal
import subprocess
import sys
import tempfile
import termios
import time
import traceback
from collections.abc import Callable
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


RANKS = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from launch.cluster import attached
from launch.cluster.job import JobSpec
from launch.cluster.local.backend import LocalBackend
from launch.cluster.registry import record
from launch.commands.submit import _attend
run_dir = Path({run_dir!r})
spec = JobSpec("run", (str(run_dir.parent / "work.py"), str(run_dir)), run_dir)
(row,) = record(spec, attached.job_id(), cluster="local", backend="local")
_attend(LocalBackend(1, preload=()), spec, row)
"""
WORK = f"""
import pathlib, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from trainer.contract.run_dir import RunDir, Status
run, stop = RunDir(pathlib.Path(sys.argv[1])), []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
done = int(run.latest.read_text()) if run.latest.exists() else 0
run.write_status(Status.RUNNING)
for step in range(done + 1, done + 601):
    print("step", step, flush=True)
    time.sleep(0.05)
    if stop or (run.root.parent / "enough").exists():
        time.sleep(0.5)
        run.latest.write_text(str(step))
        run.write_status(Status.PREEMPTED if stop else Status.DONE)
        sys.exit(75 if stop else 0)
"""
# A terminal: it detaches a driver and stays until it is closed.
TERMINAL = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from launch.cluster.detached import detach
print(detach([sys.executable, "-c", {driver!r}], Path({run_dir!r})), flush=True)
time.sleep(600)
"""


def driver_of(run_dir: Path) -> list[str]:
    """Return the command that drives one rank to its end, as `escala submit` does on this machine."""
    (run_dir.parent / "work.py").write_text(WORK)
    return [sys.executable, "-c", RANKS.format(root=str(ROOT), run_dir=str(run_dir))]


def asked(runs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask as somebody else does, from another process and another directory."""
    command = [sys.executable, "-m", "launch", *words, "--runs", str(runs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=120, check=False)


def state_of(runs: Path) -> tuple[str, str]:
    (row,) = json.loads(asked(runs, "jobs", "--json").stdout)
    return row["state"], row["reason"]


def printed(run_dir: Path, attempt: int) -> list[str]:
    log = run_dir / "logs" / str(attempt) / "rank_0.log"
    return log.read_text().splitlines() if log.exists() else []


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def take_terminal() -> None:
    """Make standard input the terminal of a new process, which hangs up with it, also where tests run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_closed_terminal_ends_nothing_and_the_run_is_cancelled_and_resumed_from_elsewhere(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    ours, theirs = os.openpty()
    command = driver_of(run_dir)
    text = TERMINAL.format(root=str(ROOT), driver=command[-1], run_dir=str(run_dir))
    terminal = subprocess.Popen(
        [sys.executable, "-c", text],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    until(lambda: len(printed(run_dir, 1)) > 3)
    os.close(ours)  # the window is closed
    assert terminal.wait(30) == -signal.SIGHUP
    count = len(printed(run_dir, 1))
    until(lambda: len(printed(run_dir, 1)) > count + 3)
    assert state_of(tmp_path)[0] == "running"
    row = registry.read(run_dir)
    assert row is not None
    attached.cancel(row)
    until(lambda: "stopping run" in (run_dir / LOG).read_text())
    attached.cancel(row)  # a second time, while it saves
    until(lambda: state_of(tmp_path) == ("preempted", "cancelled; it saved first, and can go on"))
    shown = (run_dir / LOG).read_text().splitlines()
    assert [line for line in shown if line.startswith("step")] == printed(run_dir, 1), "each line once"
    assert shown[-1].startswith("stopped and saved")
    before = int((run_dir / "latest").read_text())
    (tmp_path / "enough").touch()
    job = detach(command, run_dir)
    until(lambda: state_of(tmp_path)[0] == "done")
    assert printed(run_dir, 2) == [f"step {before + 1}"]
    row = registry.read(run_dir)
    assert row is not None and row.job == job


def test_a_driver_that_was_killed_leaves_no_rank_and_no_running_job(tmp_path: Path) -> None:
    """Its parent, this process, does not wait for it, as the first process of many containers does not."""
    run_dir = tmp_path / "run"
    job = detach(driver_of(run_dir), run_dir)
    until(lambda: len(printed(run_dir, 1)) > 3)
    driver = attached.owner(job)
    assert driver is not None
    below = driver.children(recursive=True)
    driver.kill()
    psutil.wait_procs(below, timeout=30)
    assert below and not any(process.is_running() for process in below)
    assert psutil.Process(driver.pid).status() == psutil.STATUS_ZOMBIE and attached.owner(job) is None
    assert state_of(tmp_path)[0] in ("failed", "preempted")
    done = asked(tmp_path, "cancel", "run")
    assert done.returncode == 2 and "the process that started it has ended" in done.stderr
    (tmp_path / "enough").touch()
    detach(driver_of(run_dir), run_dir)
    until(lambda: state_of(tmp_path)[0] == "done")


def test_a_start_that_is_interrupted_leaves_no_driver_behind(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    silent = f"import os, time; print('driver', os.getpid(), flush=True); time.sleep(600) # {run_dir}"
    text = TERMINAL.format(root=str(ROOT), driver=silent, run_dir=str(run_dir))
    terminal = subprocess.Popen([sys.executable, "-c", text], stderr=subprocess.DEVNULL)
    until(lambda: (run_dir / LOG).exists() and "driver" in (run_dir / LOG).read_text())
    driver = psutil.Process(int((run_dir / LOG).read_text().split()[1]))
    terminal.send_signal(signal.SIGINT)
    assert terminal.wait(30) != 0 and not driver.is_running()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_sees_a_job_and_is_told_whose_it_is(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for directory in (tmp_path, *tmp_path.parents):
        if directory == Path(tempfile.gettempdir()):  # open to all
            break
        directory.chmod(0o755)
    job = detach(driver_of(run_dir), run_dir)
    row, me = registry.read(run_dir), getpass.getuser()
    assert row is not None
    child = os.fork()
    if child == 0:  # all modules that it needs are loaded: this interpreter may lie where others cannot read
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            running = attached.status(row).state is JobState.RUNNING
            with pytest.raises(UserError, match=rf"its process \d+ belongs to {me}, who alone can end it"):
                attached.cancel(row)
            code = 0 if running and attached.owner(job) is not None else 2
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    attached.cancel(row)
    until(lambda: attached.owner(job) is None)


def test_ids_that_differ_by_the_slack_of_a_clock_mean_one_process() -> None:
    assert attached.same_process("h:7:1000", "h:7:1001") and attached.same_process("x", "x")
    for other in ("h:7:2000", "h:8:1000", "i:7:1000", "x", ""):
        assert not attached.same_process("h:7:1000", other)


def test_a_driver_that_cannot_begin_says_why(tmp_path: Path) -> None:
    script = "import sys; print('error: h9 cannot be reached: No route to host', file=sys.stderr); sys.exit(2)"
    with pytest.raises(UserError, match=r"the driver ended with code 2: h9 cannot be reached: No route.*driver\.log"):
        detach([sys.executable, "-c", script], tmp_path / "run")


def test_schedulers_need_no_driver(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("backend: slurm\n")
    words = ["submit", str(ROOT / "configs/run/tiny.yaml"), "--cluster", str(tmp_path / "c.yaml"), "--detach"]
    with pytest.raises(UserError, match="--detach has no effect on slurm"):
        CliRunner().invoke(escala, words, catch_exceptions=False, standalone_mode=False)
