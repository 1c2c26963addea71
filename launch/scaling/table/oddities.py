"""Runs that are not what they seem, named before a law uses them: no better than chance, far off the others."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array, robust_sd

FEWEST_LEFT = 3  # degrees of freedom that a surface through the runs must leave before it can call one odd
ODD, LEAST = 8.0, 0.05  # robust standard deviations, and share of the loss, by which an odd run is off
HARDLY = 0.02  # share of chance by which a run that learned anything is below it: initial values alone give 1 %
ROUNDS = 30  # of reweighting
MANY_EPOCHS = 4.0  # tokens seen up to so often are nearly as good as new (Muennighoff et al. 2023)
MOST_NAMED = 12
DIVERGED = 1.5  # times the loss of the others: a run that far above them did not train


def chance(loss: float | None, vocabulary: float, unigram: float | None = None) -> str:
    """Say that a loss is hardly better than guessing tokens by their frequencies; empty where it is better or unknown.

    `unigram` is the entropy of the training tokens by their frequencies, in nats. Without it every token is guessed
    alike, as unlikely as one of `vocabulary`.
    """
    alike = math.log(max(2.0, vocabulary))
    level = alike if unigram is None else min(alike, unigram)
    if loss is None or not loss >= (1 - HARDLY) * level:
        return ""
    much = "no" if loss >= level else "hardly"
    what = f"ln({vocabulary:.0f})" if level == alike else "the unigram entropy of the training tokens"
    return f"{much} better than chance: loss {loss:.4g}, and {what} is {level:.4g}"


def no_better_than_chance(
    columns: Mapping[str, Array], labels: Mapping[str, NDArray[np.str_]], row: NDArray[np.int64]
) -> list[str]:
    """Name the runs of a table with vocabularies whose loss is about ln(vocabulary) or more."""
    named = []
    for i, text in enumerate(labels.get("vocab", ())):
        try:
            found = chance(float(columns["loss"][i]), float(text))
        except ValueError:  # a vocabulary by its name
            continue
        if found:
            named.append(f"{_name(labels, row, i)} is {found}")
    return chance_warning(named)


def chance_warning(named: list[str]) -> list[str]:
    """Return the warning about these runs, none where there are none."""
    return [_warning(_listed(named, "; "), len(named))] if named else []


def diverged(
    columns: Mapping[str, Array], labels: Mapping[str, NDArray[np.str_]], row: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], list[str]]:
    """Return which rows trained, and name those that did not: loss `DIVERGED` times above the surface of the others.

    Runs that saw their tokens many times may overfit as far; they are kept.
    """
    off = _odd(columns, labels)
    bad = off > math.log(DIVERGED)
    if {"D", "U"} <= columns.keys():
        bad &= columns["D"] <= MANY_EPOCHS * columns["U"]
    named = [f"{_name(labels, row, int(i))} (loss {columns['loss'][i]:.4g}, {_off_text(off[i])} the others)"
             for i in np.flatnonzero(bad)]  # fmt: skip
    return ~bad, [f"left out, diverged: {_listed(named)} (--rows all fits them)"] if named else []


def far_off(columns: Mapping[str, Array], labels: Mapping[str, NDArray[np.str_]], row: NDArray[np.int64]) -> list[str]:
    """Name the runs whose loss is far off a smooth surface through all of one family.

    The surface is linear in the logarithms of N, D and C, as far as they differ, and quadratic where there are enough
    runs. It is fitted to the log loss by least absolute deviations, which one odd run does not bend.
    """
    off = _odd(columns, labels)
    named = [
        f"{_name(labels, row, int(i))} (loss {columns['loss'][i]:.4g}, {_off_text(off[i])} the others)"
        for i in np.flatnonzero(off)
    ]
    return [_warning(f"far off its neighbours: {_listed(named)}", len(named))] if named else []


def _listed(named: list[str], between: str = ", ") -> str:
    """List runs; of many the first ones."""
    more = len(named) - MOST_NAMED
    return between.join(named[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _odd(columns: Mapping[str, Array], labels: Mapping[str, NDArray[np.str_]]) -> Array:
    """Return by how much the log loss of each row is off the surface of its family, 0 where that is not odd."""
    found = np.zeros(len(columns["loss"]))
    groups = labels.get("group", np.full(len(found), ""))
    for group in dict.fromkeys(groups):
        of = np.flatnonzero(groups == group)
        off = _residuals(columns, of)
        if off is not None:
            found[of] = np.where(np.abs(off) > max(ODD * robust_sd(off), LEAST), off, 0.0)
    return found


def _off_text(by: float) -> str:
    times = math.exp(min(abs(by), 700.0))
    side = "above" if by > 0 else "below"
    return f"{times:.3g} times {side}" if times > 3 else f"{abs(math.expm1(by)):.0%} {side}"


def _residuals(columns: Mapping[str, Array], of: NDArray[np.int64]) -> Array | None:
    """Return how far each run's log loss is off the surface; None where there are too few runs to tell."""
    logs = [np.log(columns[name][of]) for name in ("N", "D") if name in columns] or [np.log(columns["C"][of])]
    scaled = [(x - x.mean()) / x.std() for x in logs if x.std() > 1e-6]
    linear = [np.ones(len(of)), *scaled]
    curved = [*linear, *(a * b for i, a in enumerate(scaled) for b in scaled[: i + 1])]
    terms = next((t for t in (curved, linear) if len(of) - len(t) >= FEWEST_LEFT + len(t)), None)
    if terms is None and len(of) - len(linear) >= FEWEST_LEFT:
        terms = linear
    if terms is None:
        return None
    design, target = np.stack(terms, axis=1), np.log(columns["loss"][of])
    weights = np.ones(len(of))
    for _ in range(ROUNDS):  # iteratively reweighted least squares
        root = np.sqrt(weights)
        answer = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
        residual = target - design @ answer
        weights = 1 / np.maximum(np.abs(residual), 1e-6)
    return np.asarray(residual)


def _name(labels: Mapping[str, NDArray[np.str_]], row: NDArray[np.int64], i: int) -> str:
    name = str(labels["name"][i])[:60] if "name" in labels else ""
    return name or f"row {row[i]}"


def _warning(text: str, number: int) -> str:
    return f"{text}. Laws use {'it' if number == 1 else 'them'} all the same: leave out what is wrong"
