"""The arrays of the lab, and a spread of errors that a few wild ones do not move."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMAL_MEDIAN = 0.6745  # of the absolute value of a standard normal
Array = NDArray[Any]  # floats, and masks where a docstring says so


def robust_sd(errors: Array) -> float:
    """Return the standard deviation of normal errors that have the same median of absolute values."""
    return float(np.median(np.abs(errors))) / NORMAL_MEDIAN
