"""One rank on a disk that is full during some steps: no file may grow beyond a KiB then. `FULL` says during which."""

from __future__ import annotations

import os
import resource
import sys

from trainer.loop import steps
from trainer.train import main

SMALL = 1024  # bytes: less than any checkpoint, and than the records of a few steps


def fill(first: int, last: int) -> None:
    """Have the disk be full from the end of step `first` (0: from the start) to that of step `last`."""
    real = steps.one_step
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def one_step(run: steps.Run) -> steps.StepOutcome:
        outcome = real(run)
        full = first <= run.step < last
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL if full else hard, hard))
        return outcome

    steps.one_step = one_step
    if first == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))


if __name__ == "__main__":
    fill(*map(int, os.environ["FULL"].split(":")))
    sys.exit(main())
