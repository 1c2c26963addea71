"""What it costs to follow a law of settings: the loss there against the best of each cell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from launch.scaling.other.bowl import Trials, Windowed


@dataclass(frozen=True)
class Cost:
    """Loss of the trial nearest to the law's setting over that of the best trial, less one, over the cells.

    The law is that fitted without the cell. `outside` counts the cells whose sweep ends before the law's setting.
    """

    mean: float
    most: float
    cells: int
    outside: int

    @property
    def sentence(self) -> str:
        """Say it for the terminal."""
        text = (
            f"following the law costs {self.mean:.2%} of the loss on average and {self.most:.2%} at most, in the trial "
            f"nearest to it against the best of each of {self.cells} cells, with the cell left out of the fit"
        )
        return text + (f"; in {self.outside} of them it lies outside the sweep" if self.outside else "")

    def to_json(self) -> dict[str, Any]:
        """Return all of it for `--json`."""
        return asdict(self)


def cost_of_following(every: Trials, fit: Windowed) -> Cost:
    """Measure it: no curve is laid between the trials, so a coarse sweep has a cost of its own steps."""
    number = len(fit.gram)
    without = fit.without_each()
    costs, outside = [], 0
    for c in range(number):
        first = int(np.argmax(fit.trials.cell == c))
        mine = every.cell == _cell_of(every, fit.trials, first)
        z, losses = every.z[mine], every.log_loss[mine]
        wanted = without[c] @ fit.trials.x[first]
        varied = np.ptp(z, axis=0) > 0
        outside += bool((varied & ((wanted < z.min(axis=0)) | (wanted > z.max(axis=0)))).any())
        d = z - wanted
        nearest = np.argmin(np.einsum("ni,ij,nj->n", d, fit.bowl.curvature, d))
        costs.append(float(np.expm1(losses[nearest] - losses.min())))
    return Cost(float(np.mean(costs)), float(np.max(costs)), number, outside)


def _cell_of(every: Trials, chosen: Trials, place: int) -> int:
    same = (every.z == chosen.z[place]).all(axis=1) & (every.x == chosen.x[place]).all(axis=1)
    same &= every.log_loss == chosen.log_loss[place]
    return int(every.cell[np.argmax(same)])
