"""A node's agent with a real torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from launch.watch.rank_positions import waited_for
from launch.watch.traces import main_stack
from trainer.contract.attempts import MOST_STARTS, Claim, attempts, claim_attempt
from trainer.contract.exit_codes import EXIT_FAILED, EXIT_PREEMPTED, EXIT_STANDSTILL
from trainer.contract.run_dir import RunDir
from trainer.node.arguments import Node
from trainer.node.first_failure import recorded_failure
from trainer.node.watch import Watch

LATE, PLANTED = (Path(__file__).with_name("programs") / name for name in ("late.py", "planted.py"))


def test_a_signal_to_every_process_reaches_ranks_that_were_not_ready(tmp_path: Path) -> None:
    """As Slurm does before the time limit: torchrun must not die of it, and a rank that still starts must hear it."""
    mark = tmp_path / "mark"
    words = [
        "-m",
        "trainer.node.agent",
        "--run-dir",
        str(tmp_path),
        "--rendezvous",
        "127.0.0.1:0",
        "--",
        str(LATE),
        str(mark),
    ]
    agent = subprocess.Popen([sys.executable, *words])
    try:
        deadline = time.monotonic() + 90
        while not mark.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in (psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)):
            process.send_signal(signal.SIGUSR1)
        assert agent.wait(60) == EXIT_PREEMPTED
        assert mark.read_text() == "saved"
    finally:
        agent.kill()


@pytest.mark.parametrize("ranks_ran", [True, False])
def test_a_signal_after_the_ranks_have_ended_does_not_undo_their_end(tmp_path: Path, ranks_ran: bool) -> None:
    """Between the end of its ranks and its own, torchrun is left alone; before the first rank nothing can be lost."""
    torchrun = subprocess.Popen(
        ["bash", "-c", "read start; sleep 100 & wait $!; read end; exit 0"], stdin=subprocess.PIPE, bufsize=0
    )
    assert torchrun.stdin is not None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    node = Node(tmp_path, Claim(1), 1, 1, "127.0.0.1:0", "test", True, 0, 60.0, 60, ("-m", "x"))
    try:
        watch = Watch(node, torchrun)
        if ranks_ran:
            torchrun.stdin.write(b"\n")
            while not watch.ranks_seen:
                watch._look_around(0.0)
            for rank in psutil.Process(torchrun.pid).children():
                rank.kill()
            while psutil.Process(torchrun.pid).children():
                time.sleep(0.01)
        watch._pass_on(signal.SIGUSR1, None)
        if ranks_ran:
            torchrun.stdin.write(b"\n")
        assert torchrun.wait(30) == (0 if ranks_ran else -signal.SIGKILL)
    finally:
        torchrun.kill()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def agent(run_dir: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer.node.agent", "--run-dir", str(run_dir), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_rank_that_its_peers_waited_for_is_named_with_its_stack(tmp_path: Path) -> None:
    """SIGUSR2 to every process ends none, and every rank says where it is; so does one that a failed peer leaves."""
    words = ["--ranks", "2", "--rendezvous", "127.0.0.1:0", "--grace", "10", "--", str(PLANTED), "timeout", "0", "x"]
    node = agent(tmp_path, *words)
    logs, asked = tmp_path / "logs" / "1", False
    deadline = time.monotonic() + 120
    while node.poll() is None and time.monotonic() < deadline:
        ready = [log for log in logs.glob("rank_*.log") if "ready" in log.read_text()]
        if len(ready) == 2 and not asked:
            asked = True
            time.sleep(2)  # until the one stands still, and before the other gives up
            for process in (psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)):
                process.send_signal(signal.SIGUSR2)
        time.sleep(0.05)
    said, _ = node.communicate(timeout=60)
    assert node.returncode == EXIT_FAILED and "rank 1" in said and "Timed out" in said, said
    assert all((logs / f"stacks_{rank}.txt").read_text().count("Current thread") for rank in (0, 1))
    stack = main_stack(logs / "stacks_0.txt")
    assert stack and "planted.py" in stack[0] and stack[0].endswith(" in fail"), stack
    found = waited_for(RunDir(tmp_path))
    assert found.rank == 0 and found.stack == stack and "rank 0 stood still" in found.helps, found


def test_the_third_start_that_saves_nothing_newer_is_the_last(tmp_path: Path) -> None:
    """Two starts of the job began here already; this one is told to stop, as before a time limit, and saves nothing."""
    (tmp_path / "latest").write_text("step_5\n")
    for repeat in range(MOST_STARTS - 1):
        claim_attempt(tmp_path, "7", repeat=repeat)
    (tmp_path / "leave.py").write_text(f"raise SystemExit({EXIT_PREEMPTED})\n")
    words = ["--rendezvous", "127.0.0.1:0", "--job", "7", "--repeat", "2", "--", str(tmp_path / "leave.py")]
    last = agent(tmp_path, *words)
    said, _ = last.communicate(timeout=120)
    assert last.returncode == EXIT_STANDSTILL and "attempt 3 of job 7" in said
    failure = recorded_failure(tmp_path / "logs" / "3")
    assert failure is not None and failure.rank == -1 and failure.code == EXIT_STANDSTILL
    assert failure.message.startswith("3 attempts in a row began at step_5 and saved nothing newer: stopped.")


def test_one_start_too_many_begins_on_no_node(tmp_path: Path) -> None:
    """The first node refuses it, the other follows its claim and leaves with the same code; no rank starts."""
    for repeat in range(MOST_STARTS):
        claim_attempt(tmp_path, "7", repeat=repeat, start=str(repeat))
    words = ["--nodes", "2", "--job", "7", "--repeat", "3", "--id", "3", "--rendezvous", "127.0.0.1:29999"]
    follower = agent(tmp_path, *words, "--", "-m", "x")
    first = agent(tmp_path, *words, "--host", "--", "-m", "x")
    said = [one.communicate(timeout=60)[0] for one in (first, follower)]
    assert (first.returncode, follower.returncode) == (EXIT_STANDSTILL, EXIT_STANDSTILL), said
    assert "error: 3 attempts in a row began at the first step" in said[0]
    assert attempts(tmp_path) == [1, 2, 3, 4] and not list(tmp_path.glob("logs/4/torchrun_*"))


def test_a_node_that_does_not_see_the_run_directory_says_so(tmp_path: Path) -> None:
    """A driver's claim, or that of the first node: it is not there."""
    for words in (["--attempt", "3"], ["--nodes", "2", "--id", "7.0"]):
        blind = agent(tmp_path, *words, "--join-timeout", "1", "--", "-m", "x")
        said, _ = blind.communicate(timeout=60)
        assert blind.returncode == EXIT_FAILED
        assert f"did not appear in {tmp_path} within 1 s: is it on a shared filesystem?" in said
    assert not (tmp_path / "logs").exists(), "it makes no attempt of its own"


def test_what_ranks_print_is_printed_by_their_agent_too(tmp_path: Path) -> None:
    (tmp_path / "say.py").write_text(
        "import os; print('rank', os.environ['RANK'], 'says [/x]'); print('no end', end='')"
    )
    words = ["--rendezvous", "127.0.0.1:0", "--ranks", "2", "--echo", "--", str(tmp_path / "say.py")]
    echoing = agent(tmp_path, *words)
    said, _ = echoing.communicate(timeout=120)
    assert echoing.returncode == 0
    for rank in ("0", "1"):
        lines = [line for line in said.splitlines() if line.startswith(f"[{rank}] ")]
        assert lines == [f"[{rank}] rank {rank} says [/x]", f"[{rank}] no end"]
