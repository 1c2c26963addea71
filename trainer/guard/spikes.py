"""Spikes: values of the loss and of the gradient norm far above those of the steps before.

How far is counted in robust standard deviations, 1.4826 x the median absolute deviation (Rousseeuw and Croux 1993),
from the median of the last steps. So neither a trend nor a few spikes inside the window move the measure. A lasting
change of level becomes normal once it fills half of the window. Gradient norms are compared by their logarithms, since
they differ by factors.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LOSS, GRAD_NORM = "loss", "grad_norm"
NORMAL = 1.4826  # median absolute deviation -> standard deviation, of normal values
# The least standard deviation: a loss that hardly moves spikes at no tiny step. A share of the median loss; of a norm.
LEAST_LOSS, LEAST_NORM = 0.01, 0.1


@dataclass(frozen=True)
class Spike:
    """One value that stands out: `value` is `deviations` standard deviations above the median of the window."""

    signal: str  # LOSS or GRAD_NORM
    value: float
    median: float
    limit: float  # where a spike begins
    deviations: float


@dataclass(frozen=True)
class Limits:
    """Above which loss and gradient norm a step is a spike; infinite while too few steps are known."""

    loss: float = math.inf
    grad_norm: float = math.inf


class Spikes:
    """The window of one run. Every rank of it adds the same values."""

    def __init__(self, window: int, sigma: float) -> None:
        """Compare with the last `window` steps; there are no spikes before half of them were seen."""
        self.sigma, self._fewest = sigma, window // 2
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)  # logarithms

    def limits(self) -> Limits:
        """Return the limits for the next step."""
        if len(self._losses) < self._fewest:
            return Limits()
        return self._limits(*self._spread())

    def _limits(self, losses: tuple[float, float], norms: tuple[float, float]) -> Limits:
        return Limits(losses[0] + self.sigma * losses[1], math.exp(norms[0] + self.sigma * norms[1]))

    def add(self, loss: float, grad_norm: float) -> list[Spike]:
        """Compare a step with those before, take it into the window, and return what stands out.

        Values that are no finite numbers are neither compared nor taken in.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return []
        log = math.log(max(grad_norm, 1e-30))
        found = self._found(loss, grad_norm, log) if len(self._losses) >= self._fewest else []
        self._losses.append(loss)
        self._norms.append(log)
        return found

    def _found(self, loss: float, grad_norm: float, log: float) -> list[Spike]:
        (middle, deviation), (log_middle, log_deviation) = self._spread()
        limits = self._limits((middle, deviation), (log_middle, log_deviation))
        found = []
        if loss > limits.loss:
            found.append(Spike(LOSS, loss, middle, limits.loss, (loss - middle) / deviation))
        if grad_norm > limits.grad_norm:
            far = (log - log_middle) / log_deviation
            found.append(Spike(GRAD_NORM, grad_norm, math.exp(log_middle), limits.grad_norm, far))
        return found

    def _spread(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return median and standard deviation of the losses, and of the logarithms of the norms."""
        middle, deviation = _robust(self._losses)
        log_middle, log_deviation = _robust(self._norms)
        return (middle, max(deviation, LEAST_LOSS * abs(middle))), (log_middle, max(log_deviation, LEAST_NORM))

    def state(self) -> dict[str, list[float]]:
        """Return what a checkpoint must hold for the same decisions after a restart, as plain JSON values."""
        return {"losses": list(self._losses), "norms": list(self._norms)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with the window of a checkpoint."""
        for kept, values in ((self._losses, state.get("losses")), (self._norms, state.get("norms"))):
            kept.clear()
            kept.extend(float(value) for value in values or ())


def _robust(values: deque[float]) -> tuple[float, float]:
    """Return the median and the standard deviation that the median absolute deviation stands for."""
    middle = _median(sorted(values))
    return middle, NORMAL * _median(sorted([abs(value - middle) for value in values]))


def _median(ordered: list[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
