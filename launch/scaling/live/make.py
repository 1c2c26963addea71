"""Make the expected curve of a run that has not started, from finished runs like it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student

from launch.scaling.arrays import Array
from launch.scaling.live.limits import limits_of
from launch.scaling.live.regression import Foretold, foretell, with_final
from launch.scaling.live.runs import Finished, Kind, matching, why_not
from launch.scaling.live.shapes import batch_noise, knots, shape_of
from trainer.contract.errors import UserError
from trainer.contract.expected import BAND, ExpectedCurve, Limits

LEAST_MODE = 1e-5  # variance of a way to deviate, over that of the largest, that is kept
FINAL = 1.0  # share of the run at which the last evaluation is made


def expected_curve(
    runs: Sequence[Finished],
    wanted: Kind,
    *,
    eval_set: str = "held_out",
    logged_every: int = 1,
    law: tuple[float, float] | None = None,
) -> ExpectedCurve:
    """Return what is expected of the wanted run, from those of `runs` that are like it.

    `logged_every`: steps between its logged ones, for which the limits of an alarm are made. `law`: the log of the
    final loss that a fitted law foretells, and its standard deviation, in place of what the runs say of the end.
    Raises `UserError` where no run is like it, there are too few, or it lies too far beyond them.
    """
    like = matching([run for run in runs if run.kind.name != wanted.name], wanted)
    if not like:
        why = f": {why_not(runs, wanted)}" if runs else ""
        raise UserError(
            f"no finished run is like {wanted.name}{why}. An expected curve is made from runs with the same data, "
            "batch, schedule and optimizer, of other sizes, lengths or seeds"
        )
    shapes, at = [shape_of(run) for run in like], np.append(knots(), FINAL)
    noise = batch_noise(shapes)
    columns = np.array([[*shape.at_knots, run.final] for shape, run in zip(shapes, like, strict=True)])
    errors = np.append(noise**2 * np.mean([shape.errors for shape in shapes], axis=0), 0.0)
    found = foretell(like, columns, errors, wanted, at)
    if law is not None:
        found = with_final(found, *law)
    modes = _modes(found)
    made = ExpectedCurve(
        steps=(knots() * wanted.steps).tolist(),
        mean=found.mean[:-1].tolist(),
        modes=modes[:, :-1].tolist(),
        noise=noise.tolist(),
        final_mean=float(found.mean[-1]),
        final_modes=modes[:, -1].tolist(),
        limits=Limits(np.inf, np.inf),
        total_steps=wanted.steps,
        tokens_per_step=wanted.tokens_per_step,
        made_for=wanted.like,
        cells=[run.kind.name for run in like],
        eval_set=eval_set,
    )
    return dataclasses.replace(made, limits=limits_of(made, found.freedom, logged_every))


def _modes(found: Foretold) -> Array:
    """Return the ways to deviate (J, K + 1), independent, one standard deviation each, the largest first.

    They are scaled so that the quantiles of a normal distribution hold for the few degrees of freedom that there are.
    """
    values, vectors = np.linalg.eigh(found.covariance)
    kept = values > LEAST_MODE * values.max()
    wide = float(student.ppf(0.975, found.freedom)) / BAND
    return np.asarray((vectors[:, kept] * np.sqrt(values[kept])).T[::-1] * wide)
