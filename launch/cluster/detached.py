"""A driver that stays when its terminal goes: `escala submit --detach` for SSH hosts and this machine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from launch.cluster.attached import job_id_of, same_process
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
    try:
        return _begun(driver, run_dir)
    except KeyboardInterrupt:  # nobody was told its id: it must not go on alone
        driver.terminate()
        driver.wait()
        raise


def _begun(driver: subprocess.Popen[bytes], run_dir: Path) -> str:
    """Return a driver's job id once it says that the job began, or has ended it. Raises UserError where it failed."""
    job, log = job_id_of(driver.pid), run_dir / LOG
    while True:
        ended = driver.poll() is not None  # asked first: what it told before its end is still read
        known = told(run_dir)
        if known is not None and same_process(known.driver, job) and not (ended and driver.returncode != 0):
            return known.driver
        if ended and driver.returncode != 0:
            why = last_error_line(log).removeprefix("error: ")
            raise UserError(f"the driver ended with code {driver.returncode}: {why} (see {log})")
        if ended:
            return job
        time.sleep(POLL_SECONDS)
