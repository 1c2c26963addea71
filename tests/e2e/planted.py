"""One rank of a run that ends badly, by its seed: `PLANTED` says how. Everything else of it is a real run."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from trainer.config.load import load_run
from trainer.contract.errors import UserError
from trainer.loop import steps
from trainer.train import main

EARLY, LATE, KILLED, REFUSED = 101, 102, 103, 104  # seeds
STEPS = {EARLY: 3, LATE: 11, KILLED: 5, REFUSED: 2}
CURED = "ESCALA_TEST_CURED"  # an environment variable: set, nothing ends badly


def plant(seed: int) -> None:
    """Have the step of this seed lose its number, its process, or the user's favour."""
    real = steps.one_step

    def one_step(run: steps.Run) -> steps.StepOutcome:
        outcome = real(run)
        if run.step != STEPS[seed]:
            return outcome
        if seed == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        if seed == REFUSED:
            raise UserError("the data say nothing of this")
        return replace(outcome, loss=float("nan"), skipped=True)

    steps.one_step = one_step


if __name__ == "__main__":
    seed = load_run(Path(sys.argv[-1]) / "config.yaml").seed
    if seed in STEPS and CURED not in os.environ:
        plant(seed)
    sys.exit(main())
