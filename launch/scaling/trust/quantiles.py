"""Points beyond which a few in a hundred lie."""

from __future__ import annotations

Z_95 = 1.959963984540054  # of a normal distribution, two-sided, in standard deviations


def student(freedom: float, level: float) -> float:
    """Return the two-sided point of Student's t: `level` of it lies within."""
    from scipy.special import stdtrit  # late: no command but a fit pays for scipy

    return float(stdtrit(freedom, (1 + level) / 2))


def student_95(freedom: int) -> float:
    """Return the two-sided 95 % point of Student's t."""
    return student(freedom, 0.95)
