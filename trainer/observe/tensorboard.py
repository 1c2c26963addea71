"""TensorBoard event files, for those without W&B: `tracking.tensorboard: true` writes them to RUN/tensorboard/."""

from __future__ import annotations

import math
import sys
from importlib.util import find_spec
from typing import Any

from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir
from trainer.observe.observers import Row
from trainer.observe.wandb_run import FLOPS, flops_per_token, values_of

FOLDER = "tensorboard"


def check_installed() -> None:
    """Raise `UserError` where TensorBoard's writer is not installed."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "tracking.tensorboard is true, but the package tensorboard is not installed where the ranks run: "
            "`pip install tensorboard` there, or set tracking.tensorboard to false"
        )


class TensorBoard:
    """Writes the numbers of rows, under the names that they have in W&B, in a thread of the writer's own.

    Steps that a run trains again, after a restart or a rollback, take the place of the former ones.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir, self._flops = run_dir, flops_per_token(run_dir)
        self._writer: Any = None
        self._newest = -1
        self._failed = False

    def row(self, row: Row) -> None:
        """Queue the numbers of a row."""
        step = int(row["step"])
        try:
            if self._writer is None or step < self._newest:
                self._open(step)
            for name, value in values_of(row, self._flops).items():
                if name not in ("step", FLOPS) and not isinstance(value, str) and math.isfinite(value):
                    self._writer.add_scalar(name, value, global_step=step)
        except OSError as error:  # a full disk ends no run; the record has the row
            if not self._failed:
                print(f"warning: TensorBoard's files cannot be written: {error}", file=sys.stderr, flush=True)
            self._failed = True
        self._newest = step

    def event(self, row: Row) -> None:
        """Events stay in the local record."""

    def finish(self, exit_code: int) -> None:
        """Write what is queued."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, step: int) -> None:
        """Begin a file in which what former ones have from `step` on does not count."""
        from torch.utils.tensorboard import SummaryWriter  # late: slow, and absent where nobody asked for it

        self.finish(0)
        self._writer = SummaryWriter(str(self._run_dir.root / FOLDER), purge_step=step)
