"""Seed noise and lack of fit: what repeated cells say about both (Draper & Smith 1998, section 2.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from launch.scaling.fit.fit import Fitted

SIGNIFICANT = 0.01


@dataclass(frozen=True)
class LackOfFit:
    """Pure error from repeated cells against the scatter of cell means about the law, in log loss."""

    seed_sd: float
    misfit_sd: float
    f_ratio: float
    p_value: float
    num_repeated: int

    @property
    def sentence(self) -> str:
        """Say what the test found, with its F and p."""
        return (
            f"lack of fit: cell means scatter {self.misfit_sd:.2%} about the law against a seed noise of "
            f"{self.seed_sd:.2%} (F = {self.f_ratio:.1f}, p = {self.p_value:.1g}, {self.num_repeated} repeated cells)"
        )


def lack_of_fit(fitted: Fitted) -> LackOfFit | None:
    """Return the F test of lack of fit, or None where no cell is repeated with a different loss."""
    residual = fitted.residuals
    places = np.round(np.log(np.stack([fitted.columns[v] for v in fitted.law.variables])), 6)
    _, cell = np.unique(places, axis=1, return_inverse=True)
    cell = cell.ravel()
    counts = np.bincount(cell)
    means = np.bincount(cell, residual) / counts
    pure_freedom = len(residual) - len(counts)
    misfit_freedom = len(counts) - fitted.num_params
    within = residual - means[cell]
    if pure_freedom < 1 or misfit_freedom < 1 or not np.any(np.abs(within) > 1e-12):
        return None
    pure = float(np.sum(within**2)) / pure_freedom
    misfit = float(np.sum(counts * means**2)) / misfit_freedom
    from scipy.special import fdtrc  # only tables with repeated cells pay for scipy

    ratio = misfit / pure
    return LackOfFit(
        pure**0.5, misfit**0.5, ratio, float(fdtrc(misfit_freedom, pure_freedom, ratio)), int(np.sum(counts > 1))
    )
