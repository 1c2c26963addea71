"""A driver that stays when its terminal goes: `escala submit --detach` for SSH hosts and this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from launch.cluster.driven import told
from trainer.contract.errors import UserError
from trainer.node.failure import last_error_line

LOG = "driver.log"
POLL_SECONDS = 0.1


def detach(command: Sequence[str], run_dir: Path) -> str:
    """Start a command that drives the run of a directory, and return its job id once it says that the job began.

    It has a session of its own, so no hang-up of this terminal ends it; what it prints goes to `driver.log`.
    Raises UserError with what it said where it ended instead.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    log = run_dir / LOG
    with log.open("ab") as out:
        driver = subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    import psutil  # late: a command that starts nothing does not pay for it

    job = f"{socket.gethostname()}:{driver.pid}:{int(psutil.Process(driver.pid).create_time())}"
    while True:
        ended = driver.poll() is not None  # asked first: what it told before its end is still read
        known = told(run_dir)
        if known is not None and known.driver == job and not (ended and driver.returncode != 0):
            return job
        if ended and driver.returncode != 0:
            why = last_error_line(log).removeprefix("error: ")
            raise UserError(f"the driver ended with code {driver.returncode}: {why} (see {log})")
        if ended:
            return job
        time.sleep(POLL_SECONDS)
