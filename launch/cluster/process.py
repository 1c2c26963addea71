"""Call a scheduler's program: argument lists only, a time limit always, and errors in its own words."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence

from trainer.contract.errors import UserError

Call = Callable[..., str]
TIMEOUT_SECONDS = 60.0  # a Slurm client blocks for seconds when its controller is away


class CallError(UserError):
    """A program left with a code other than 0. `text` is what it wrote on standard error."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


def call(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program and return its standard output. `env` replaces this process's environment.

    Raises UserError when it is missing, slow or fails.
    """
    if shutil.which(argv[0]) is None:
        raise UserError(
            f"{argv[0]} is not installed or not on PATH on this machine: run this on a login node that has it"
        )
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
            env=env,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{argv[0]} gave no answer within {timeout:.0f} s: is its controller up?") from None
    if done.returncode != 0:
        text = (done.stderr or done.stdout).strip()
        raise CallError(f"{argv[0]} failed with code {done.returncode}: {' '.join(text.splitlines()[-3:])}", text)
    return done.stdout
