"""A node's agent with a real torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trainer.contract.exit_codes import EXIT_PREEMPTED
from trainer.node.agent import Node, Watch

LATE = Path(__file__).with_name("programs") / "late.py"


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
    node = Node(tmp_path, 1, 1, 1, "127.0.0.1:0", "test", True, 0, 60.0, 60, ("-m", "x"))
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
