"""What tuning stands behind the rows of a ledger: which settings were tuned, and what those that were not cost.

Of each knob (learning rate, batch, weight decay) a row says how its value came about, and the trials of a tuning what
it costs. What the knobs cost together is the sum of that: each was tuned with the ones before it at their best. So a
law can be fitted to the losses that are left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from launch.scaling.table.reading import TUNING, Row
from launch.scaling.table.table import Table
from launch.scaling.tune.knobs import COLUMNS, KNOBS, WORDS, Knob, origin_column
from launch.scaling.tune.mistuning import Mistuning, kind_of
from launch.scaling.tune.search import TOLERABLE

SWEPT = 3  # values at one size from which the best of them counts as tuned
TUNED = "tuned"  # word of a value whose cost is known, or that is the best of several
WAYS = {"rule": "by the rule", "by hand": "set by hand", "recipe": "by a recipe, tuned elsewhere"}


@dataclass(frozen=True)
class Standing:
    """`weak`: why a law of these rows is weak; `notes`: what is good to know."""

    weak: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def word_label(knob: Knob) -> str:
    """Return the label of a table that says how the value of a knob came about, where the ledger does."""
    return f"tuning_{knob}"


def fall_column(knob: Knob) -> str:
    """Return the column of a table that says by how much log loss would fall at the best value of a knob."""
    return f"fall_{knob}"


def tuning_of(counted: Sequence[Row], every: Sequence[Row]) -> tuple[dict[str, NDArray[np.str_]], dict[str, Array]]:
    """Return, of each counted row, how its knobs came about, and by how much its log loss would fall at their best.

    Both (n,) by label and column. Falls are NaN where nothing tells. A knob of which rows say nothing has no label, and
    one without a tuning in the ledger no column.
    """
    labels: dict[str, NDArray[np.str_]] = {}
    columns: dict[str, Array] = {}
    for knob in KNOBS:
        mistuning = Mistuning(knob, every)
        falls = [mistuning.fall(row) for row in counted]
        swept = _swept(knob, every)
        words = [_word(knob, row, fall, swept=len(swept[_place(knob, row)]) >= SWEPT)
                 for row, fall in zip(counted, falls, strict=True)]  # fmt: skip
        if any(words):
            labels[word_label(knob)] = np.array(words)
        if mistuning:
            columns[fall_column(knob)] = np.array(falls)
    return labels, columns


def standing(table: Table) -> Standing:
    """Say what tuning stands behind the rows of a table; nothing where the table does not tell."""
    weak: list[str] = []
    notes: list[str] = []
    silent: list[tuple[str, str]] = []
    tuned: dict[str, Array] = {}
    for knob, name in WORDS.items():
        words, fall = table.labels.get(word_label(knob)), table.columns.get(fall_column(knob))
        if fall is not None and np.isfinite(fall).any():
            if np.nanmax(fall) > TOLERABLE:
                weak.append(_cost_text(f"{name} mistuned", fall, table))
            else:
                tuned[name] = fall
        if words is None:
            continue
        if knob == "lr":
            weak += [_untuned_text(words == word, WAYS[word], table) for word in ("rule", "by hand") if word in words]
        silent += [(name, WAYS[word]) for word in _unknown(knob) if word in words]
    if tuned:
        fall = np.nansum(list(tuned.values()), axis=0)
        notes.append(_cost_text(f"{' and '.join(tuned)} tuned", fall, table))
    for way in dict.fromkeys(way for _, way in silent):
        names = " and ".join(name for name, other in silent if other == way)
        notes.append(f"{names} {way}: what mistuning costs is not in this ledger")
    return Standing(tuple(weak), tuple(notes))


def loss_if_tuned(table: Table) -> Array | None:
    """Return the losses (n,) that the runs would have at the best settings, as far as the tuning tells.

    None unless the learning rate of every row is tuned: without its cost the others would bend the law.
    """
    words = table.labels.get(word_label("lr"))
    falls = [table.columns[name] for knob in KNOBS if (name := fall_column(knob)) in table.columns]
    if words is None or not (words == TUNED).all() or not falls:
        return None
    fall = np.nansum(falls, axis=0)
    return np.asarray(table.loss * np.exp(-fall)) if fall.sum() > 0 else None


def _unknown(knob: Knob) -> tuple[str, ...]:
    """Return the words of values whose cost nobody knows and that make no law weak by themselves.

    Every ladder's batch and weight decay are set somehow, and losses are flat about their best.
    """
    return ("recipe",) if knob == "lr" else ("recipe", "by hand")


def _untuned_text(untuned: NDArray[np.bool_], way: str, table: Table) -> str:
    low, high = table.N[untuned].min(), table.N[untuned].max()
    runs = f"{untuned.sum()} of {len(table)} runs, N {low:.3g} to {high:.3g}"
    return f"learning rate untuned at these sizes ({way}: {runs}); 'escala sweep tune' tells what that costs"


def _cost_text(how: str, fall: Array, table: Table) -> str:
    """Say by how much losses would fall at the best."""
    most = int(np.nanargmax(fall))
    return (
        f"{how}: losses would fall by {np.nanmean(fall):.2%} on average and {fall[most]:.2%} at most "
        f"(N {table.N[most]:.3g}) at the best one, by the parabolas of the tuning"
    )


def _swept(knob: Knob, every: Sequence[Row]) -> Mapping[tuple[Any, ...], set[float]]:
    """Return the values of a knob by size, of runs that are no trials of a tuning."""
    found: dict[tuple[Any, ...], set[float]] = {}
    for row in every:
        values = found.setdefault(_place(knob, row), set())
        value = row.get(COLUMNS[knob])
        if row.get("purpose") != TUNING and isinstance(value, int | float) and value > 0:
            values.add(round(math.log(value), 6))
    return found


def _word(knob: Knob, row: Row, fall: float, *, swept: bool) -> str:
    if math.isfinite(fall) or swept:
        return TUNED
    return str(row.get(origin_column(knob)) or "")


def _place(knob: Knob, row: Row) -> tuple[Any, ...]:
    """Return what runs of one size and length have in common. Tokens are rounded up to whole steps of a batch."""
    tokens = round(math.log(max(row["tokens"], 1)), 1) if knob == "batch" else row["tokens"]
    batch = None if knob == "batch" else row["tokens_per_step"]
    return kind_of(row), row["params_body"], tokens, batch
