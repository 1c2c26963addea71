"""Which attempt an agent is of: the first node claims it, the others follow, and one too many is refused."""

from __future__ import annotations

import time
from pathlib import Path

from trainer.contract.attempts import Claim, claim_attempt, claim_of, newest_attempt, standstill
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_PREEMPTED, EXIT_STANDSTILL
from trainer.contract.run_dir import RunDir
from trainer.node.first_failure import blame_node

LOOK_SECONDS = 0.2


def find_claim(run_dir: Path, start: str, attempt: int | None, timeout: float) -> Claim:
    """Return the claim of a start: that of `attempt`, which its driver claimed, or the one that the first node signs.

    Raises UserError where it does not appear: then this node does not see the run directory.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        claim = claim_of(run_dir, attempt or newest_attempt(run_dir))
        if attempt is not None and RunDir(run_dir).logs(attempt).is_dir():
            return claim or Claim(attempt)  # a script that was queued before claims were written made the directory
        if claim is not None and claim.start == start:
            return claim
        time.sleep(LOOK_SECONDS)
    what = f"attempt {attempt}" if attempt else f"the start {start!r} of the first node"
    raise UserError(f"{what} did not appear in {run_dir} within {timeout:.0f} s: is it on a shared filesystem?")


def claim_or_refuse(run_dir: Path, job: str, repeat: int, start: str) -> Claim | int:
    """Claim the next attempt; the exit code where the job was started often enough without getting on.

    The refusal stands in the attempt's own directory, where the other nodes and everybody else find it.
    """
    claim = claim_attempt(run_dir, job, repeat=repeat, start=start)
    if job:
        print(f"attempt {claim.attempt} of job {job}", flush=True)
    return _stop(run_dir, claim, ended=False) or claim


def or_standstill(run_dir: Path, claim: Claim, code: int) -> int:
    """Return the exit code of an attempt whose ranks have all ended; another one where it must not be repeated."""
    return (_stop(run_dir, claim, ended=True) if code == EXIT_PREEMPTED else None) or code


def _stop(run_dir: Path, claim: Claim, *, ended: bool) -> int | None:
    said = standstill(run_dir, claim, ended=ended)
    if not said:
        return None
    blame_node(RunDir(run_dir).logs(claim.attempt), EXIT_STANDSTILL, said)
    return EXIT_STANDSTILL
