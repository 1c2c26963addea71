"""A node's agent with a real torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from trainer.run_dir import EXIT_PREEMPTED

LATE = Path(__file__).with_name("programs") / "late.py"


def test_a_signal_to_every_process_reaches_ranks_that_were_not_ready(tmp_path: Path) -> None:
    """As Slurm does before the time limit: torchrun must not die of it, and a rank that still starts must hear it."""
    mark = tmp_path / "mark"
    words = [
        "-m",
        "trainer.agent",
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
