"""Make the expected curve of a run that has not started, from finished runs like it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from launch.scaling.arrays import Array
from launch.scaling.live.batches import shared_batches
from launch.scaling.live.growth import expected_growth
from launch.scaling.live.limits import limits_of
from launch.scaling.live.regression import Foretold, foretell, with_final
from launch.scaling.live.runs import Finished, Kind, matching, other_rate, why_not
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
    # A longer run's knots are too wide for what those of shorter ones leave of a batch.
    readers = [run for run in like if run.kind.seed == wanted.seed]
    known = len(readers) > 1 and any(run.kind.steps >= wanted.steps for run in readers)
    used = [run for run in like if _of_seed(like, run.kind.seed) > 1] if known else like
    try:
        columns = _columns(used, wanted, shared=known)
    except UserError:
        if not known:
            raise
        used, columns = like, _columns(like, wanted, shared=False)
    found = columns.found
    if law is not None:
        found = with_final(found, *law)
    modes = _modes(found)
    made = ExpectedCurve(
        steps=(knots() * wanted.steps).tolist(),
        mean=found.mean[:-1].tolist(),
        modes=modes[:, :-1].tolist(),
        noise=columns.noise.tolist(),
        batches={step: added for step, added in columns.batches.items() if step <= wanted.steps},
        noise_of_known=columns.noise_of_known.tolist(),
        final_mean=float(found.mean[-1]),
        final_modes=modes[:, -1].tolist(),
        limits=Limits(np.inf, np.inf),
        total_steps=wanted.steps,
        tokens_per_step=wanted.tokens_per_step,
        made_for=wanted.like,
        cells=[run.kind.name for run in used],
        eval_set=eval_set,
        growth=expected_growth(used, wanted),
        other_rate=other_rate(runs, wanted),
        data_hash=data_of.pop() if len(data_of := {run.data_hash for run in used}) == 1 else None,
    )
    return dataclasses.replace(made, limits=limits_of(made, found.freedom, logged_every))


@dataclass(frozen=True)
class _Columns:
    found: Foretold
    noise: Array  # (K,)
    batches: dict[int, float]
    noise_of_known: Array  # (K,)


def _of_seed(runs: Sequence[Finished], seed: int) -> int:
    return sum(run.kind.seed == seed for run in runs)


def _columns(runs: list[Finished], wanted: Kind, *, shared: bool) -> _Columns:
    """Foretell the knots and the end. `shared`: the wanted run reads the same batches as those of its seed."""
    shapes, at = [shape_of(run) for run in runs], np.append(knots(), FINAL)
    noise, rest, added = batch_noise(shapes), batch_noise(shapes), {}
    if shared:
        for seed in {run.kind.seed for run in runs}:
            members = [number for number, run in enumerate(runs) if run.kind.seed == seed]
            batches = shared_batches([runs[number] for number in members])
            for number, shape in zip(members, batches.shapes, strict=True) if batches is not None else ():
                shapes[number] = shape
            if seed == wanted.seed and batches is not None:
                added = batches.added
        rest = batch_noise(shapes)
    at_ends = np.array([[*shape.at_knots, run.final] for shape, run in zip(shapes, runs, strict=True)])
    lengths = {wanted.steps, *(run.kind.steps for run in runs)}
    of_knots = rest if len(lengths) == 1 else noise
    errors = np.append(of_knots**2 * np.mean([shape.errors for shape in shapes], axis=0), 0.0)
    found = foretell(runs, at_ends, errors, wanted, at, shared=shared)
    return _Columns(found, noise, added, rest)


def _modes(found: Foretold) -> Array:
    """Return the ways to deviate (J, K + 1), independent, one standard deviation each, the largest first.

    They are scaled so that the quantiles of a normal distribution hold for the few degrees of freedom that there are.
    """
    values, vectors = np.linalg.eigh(found.covariance)
    kept = values > LEAST_MODE * values.max()
    wide = float(student.ppf(0.975, found.freedom)) / BAND
    return np.asarray((vectors[:, kept] * np.sqrt(values[kept])).T[::-1] * wide)
