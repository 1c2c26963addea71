"""Points beyond which five in a hundred lie."""

from __future__ import annotations

Z_95 = 1.959963984540054  # of a normal distribution, two-sided, in standard deviations


def student_95(freedom: int) -> float:
    """Return the two-sided 95 % point of Student's t."""
    from scipy.special import stdtrit  # late: no command but a fit pays for scipy

    return float(stdtrit(freedom, 0.975))
