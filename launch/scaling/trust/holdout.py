"""Hold-out: every law is fitted to the smaller budgets and judged on the larger ones, which decides between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.fit.fit import Fitted, fit_law
from launch.scaling.fit.objective import HUBER, Objective
from launch.scaling.laws.base import Law
from launch.scaling.laws.identify import NARROW, allocation_obstacles, one_variable_obstacles
from launch.scaling.laws.registry import FIXED
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import refit
from launch.scaling.trust.certify import certify
from launch.scaling.trust.cuts import SHARES
from launch.scaling.trust.obstacles import Places
from trainer.contract.errors import UserError

# Farseer's is not among them: its nine parameters extrapolate wildly from a few dozen runs (see docs/scaling.md).
SURFACES = ("chinchilla", "over-training", "kaplan-ND", "outer")
LADDERS = {v: (f"power-{v}", f"power-{v}-floor") for v in ("N", "D", "C")}
ROWS_PER_PARAMETER = 2
EVERY_START = 6  # fewer starts are enough to compare laws
PASSABLE = 1.5  # times the smallest error: a law that misses more is not taken in place of a refused one
WILD = 8.0  # times the median error of a cut, at which errors are cut off: those of far and near runs stay whole
RESAMPLES, STEPS = 100, 12  # of the runs, on each of which the hold-out is made again; steps of each of its fits
# A law that fixes what is asked, a = 1/2 of N* ~ C^a, cannot say how uncertain that is: its general form stands for it.
SPECIAL_CASE = {"over-training": "chinchilla"}
EXACT = 1e-6  # mean errors below this are the solver's, not the law's

MOST_LISTED = 10_000  # errors in the JSON of a law


@dataclass(frozen=True)
class Cut:
    """One law fitted to the smaller budgets, and the rows beyond them."""

    number: int
    fitted: Fitted
    seen: Array  # (n,), mask
    beyond: Mapping[str, Array]
    loss: Array  # beyond


@dataclass(frozen=True)
class HoldOut:
    """Errors of one law on rows that it did not see, over all cuts."""

    law: str
    distance: Array  # C of the row over the largest C of the fit
    error: Array  # relative, predicted / measured - 1
    cut: Array  # which cut each entry belongs to, largest training share last
    shared: tuple[int, ...] = ()  # the cuts that every law of the comparison took part in; empty: its own
    fits: tuple[Cut, ...] = field(default=(), repr=False, compare=False)

    @property
    def mean(self) -> float:
        """Mean absolute error over the shared cuts, every cut weighing the same, and no run more than `WILD` medians.

        A law with many parameters misses the early cuts, whose runs lie farthest beyond: its own mean would flatter it.
        """
        return float(np.mean([robust_mean(np.abs(self.error[self.cut == c])) for c in self.cuts]))

    @property
    def cuts(self) -> list[int]:
        """The cuts that count: the shared ones, or where there are none all that the law took part in."""
        return list(self.shared) or [int(c) for c in np.unique(self.cut)]

    def resampled(self, weights: Array) -> Array:
        """Return the mean error (R,) with rows of the table weighted by `weights` (R, n) in fits and errors alike."""
        found = []
        for cut in (c for c in self.fits if c.number in self.cuts):
            draws = refit(cut.fitted, weights=weights[:, cut.seen], max_steps=STEPS)
            error = np.abs(cut.fitted.predict_draws(cut.beyond, draws) / cut.loss - 1)
            error = np.minimum(error, WILD * np.median(error, axis=1, keepdims=True))
            found.append(np.average(error, axis=1, weights=weights[:, ~cut.seen]))
        return np.asarray(np.mean(found, axis=0))

    def within(self, low: float, high: float) -> float | None:
        """Mean absolute error of rows at a distance between two factors."""
        inside = (self.distance > low) & (self.distance <= high)
        return float(np.mean(np.abs(self.error[inside]))) if inside.any() else None

    def to_json(self) -> dict[str, object]:
        """Return the mean error, and for each held-out run of each cut its distance and error: of many every k-th."""
        every = -(-len(self.cut) // MOST_LISTED)
        runs = zip(self.cut[::every], self.distance[::every], self.error[::every], strict=True)
        cuts = [{"seen": SHARES[int(c)], "distance": float(d), "error": float(e)} for c, d, e in runs]
        return {"law": self.law, "mean_error": self.mean, "runs": cuts}


def robust_mean(errors: Array) -> float:
    """Return the mean of absolute errors (n,), each cut off at `WILD` medians: one odd run must not rank the laws."""
    return float(np.mean(np.minimum(errors, WILD * np.median(errors))))


def candidates(table: Table) -> tuple[str, ...]:
    """Return the laws that the table's runs could identify."""
    places = Places(table.columns)
    if table.has("N", "D"):
        surfaces = tuple(name for name in SURFACES if not places.obstacles(FIXED[name]))
        if surfaces:
            return surfaces
    for variable, names in LADDERS.items():
        if table.has(variable) and not places.obstacles(FIXED[names[0]]):
            return names
    return ()


def hold_out(table: Table, laws: Sequence[str] | None = None, cost: Objective = HUBER) -> tuple[HoldOut, ...]:
    """Judge laws by their errors on larger budgets, best first.

    A law takes part in a cut when the rows below it are at least twice its parameters and identify it. Laws that no
    cut can test are left out. Of laws whose errors differ by rounding alone, as on a noise-free surface that one
    contains the other's, that with fewer parameters comes first.
    """
    tried = [FIXED[name] for name in (candidates(table) if laws is None else laws)]
    tried = [law for law in tried if all(v in table.columns for v in law.variables)]
    scales = {law.name: "C" if table.has("C") else law.variables[0] for law in tried}
    splits = {by: _splits(table, by) for by in set(scales.values())}
    judged = (_judge(law, splits[scales[law.name]], cost) for law in tried)
    found = [h for h in judged if h is not None]
    shared = tuple(n for n in range(len(SHARES)) if all(n in h.cut for h in found))
    found = [replace(h, shared=shared) for h in found]
    return tuple(sorted(found, key=lambda h: (max(h.mean, EXACT), len(FIXED[h.law].params))))


def held_out(table: Table, cost: Objective = HUBER) -> tuple[HoldOut, ...]:
    """Return `hold_out`, or raise `UserError` where nothing can be held out."""
    found = hold_out(table, cost=cost)
    if not found:
        raise UserError(f"--hold-out: {len(table)} runs are too few, or lie so that no law can be told from a part")
    return found


@dataclass(frozen=True)
class Chosen:
    """The law for a table, why it was chosen (empty: the user named it), and what candidates missed, best first.

    `near` holds the laws within one standard error of the least error, the chosen one first, each with how often it
    misses least when runs are resampled; empty where nothing was held out.
    """

    law: str
    why: str = ""
    held_out: tuple[HoldOut, ...] = ()
    near: Mapping[str, float] = field(default_factory=dict)
    fits: Mapping[str, Fitted] = field(default_factory=dict, repr=False, compare=False)  # of the near laws to all runs

    def to_json(self) -> dict[str, object]:
        """Return the parts that are there, by name."""
        found: dict[str, Any] = {"chosen": self.why} if self.why else {}
        found |= {"hold_out": [h.to_json() for h in self.held_out]} if self.held_out else {}
        return found | ({"near": dict(self.near)} if self.near else {})


def choose_law(table: Table, cost: Objective = HUBER) -> Chosen:
    """Choose a law by its error on larger budgets, not by how well it fits.

    A law is passed over where all runs together refuse it and one that misses little more is not refused. Runs of
    several N and D that lie so that no law of both can be told get Chinchilla's: its refusal says what is missing. Runs
    too few to hold any out get the usual law.
    """
    if table.has("N", "D") and allocation_obstacles(table.columns):
        ladder = next(
            (v for v in LADDERS if _spans(table, v) and not one_variable_obstacles(v, table.columns, 2)), None
        )
        one_budget = bool(one_variable_obstacles("C", table.columns, 2))  # N and D then trade off: no ladder of either
        instead = f"; --law power-{ladder} fits them as one ladder" if ladder and not one_budget else ""
        return Chosen(
            "chinchilla", f"a budget's best N and D need a law of both, which these runs cannot tell{instead}"
        )
    results = hold_out(table, cost=cost)
    if not results:
        return Chosen(_usual(table), f"{len(table)} runs are too few to hold any out; this is the usual law")
    return _decided(table, results, cost)


def _decided(table: Table, results: Sequence[HoldOut], cost: Objective) -> Chosen:
    weights = np.random.default_rng(0).exponential(size=(RESAMPLES, len(table)))  # Rubin 1981, the Bayesian bootstrap
    errors = np.maximum([h.resampled(weights) for h in results], EXACT)
    behind = errors - errors[0]
    one_se = (np.quantile(behind, 0.84, axis=1) - np.quantile(behind, 0.16, axis=1)) / 2
    least = max(results[0].mean, EXACT)
    close = [h.law for h, se in zip(results, one_se, strict=True) if max(h.mean, EXACT) <= least + max(se, EXACT)]
    whole = _Whole(table, cost)
    stands_for = {law: whole.general_form(law) for law in close}
    refused = {law for law in close if whole.refuses(stands_for[law])}
    rows = [k for k, h in enumerate(results) if h.law in close and h.law not in refused]
    if not rows:
        return _way_out(whole, results, close)
    wins = [stands_for[results[rows[k]].law] for k in np.argmin(errors[rows], axis=0)]
    names = dict.fromkeys(stands_for[results[k].law] for k in rows)
    shares = {name: wins.count(name) / len(wins) for name in sorted(names, key=wins.count, reverse=True)}
    law = next(iter(shares))
    fits = {name: whole.fitted(name) for name in shares}
    return Chosen(law, _why(law, results, shares, refused), tuple(results), shares, fits)


@dataclass(frozen=True)
class _Whole:
    """Fits of laws to all runs, each made once."""

    table: Table
    cost: Objective
    made: dict[str, Fitted] = field(default_factory=dict)
    verdicts: dict[str, bool] = field(default_factory=dict)

    @cached_property
    def places(self) -> Places:
        return Places(self.table.columns)

    def fitted(self, law: str) -> Fitted:
        if law not in self.made:
            self.made[law] = fit_law(FIXED[law], self.table.columns, self.table.loss, self.cost)
        return self.made[law]

    def refuses(self, law: str) -> bool:
        if law not in self.verdicts:
            self.verdicts[law] = certify(self.fitted(law)).status == "refused"
        return self.verdicts[law]

    def general_form(self, law: str) -> str:
        """Return the law that stands for this one: its general form, where the runs tell that."""
        general = SPECIAL_CASE.get(law, law)
        return law if self.places.obstacles(FIXED[general]) or self.refuses(general) else general


def _why(law: str, results: Sequence[HoldOut], shares: Mapping[str, float], refused: set[str]) -> str:
    but = f" but for {', '.join(sorted(refused))}, which all runs together refuse" if refused else ""
    best = next(h.law for h in results if h.law not in refused)
    others = [f"{name} ({share:.0%})" for name, share in shares.items() if name != law]
    if best == law:
        why = "it missed held-out budgets least"
    elif SPECIAL_CASE.get(best) == law:
        why = f"the general form of {best}, which missed held-out budgets least but fixes N* ~ C^.5"
    else:
        why = f"within one standard error of {best}"
    if others:
        why += f"; with runs resampled it is the best in {shares[law]:.0%}, else {', '.join(others)}"
    return why + but


def _spans(table: Table, variable: str) -> bool:
    values = table.columns[variable]
    return bool(values.max() >= NARROW * values.min())


def _way_out(whole: _Whole, results: Sequence[HoldOut], close: Sequence[str]) -> Chosen:
    """Choose where all runs refuse every law that missed least: the next one, if it misses little more."""
    for h in results:
        if h.law in close or h.mean > PASSABLE * max(results[0].mean, EXACT) or whole.refuses(h.law):
            continue
        but = f" but for {', '.join(close)}, which all runs together refuse"
        return Chosen(
            h.law, f"it missed held-out budgets least{but}", tuple(results), {h.law: 1.0}, {h.law: whole.fitted(h.law)}
        )
    why = "it missed held-out budgets least; all runs together refuse it and every law that comes near"
    return Chosen(results[0].law, why, tuple(results))


def _usual(table: Table) -> str:
    if table.has("N", "D"):
        return "chinchilla"
    return next((f"power-{v}" for v in ("N", "D", "C") if table.has(v)), "power-N")


@dataclass(frozen=True)
class _Split:
    """The table cut at one budget."""

    number: int
    seen: Array  # (n,), mask
    known: Table
    beyond: Table
    distance: Array  # of each row beyond: its C over the largest that is known
    places: Places  # of the known rows


def _splits(table: Table, by: str) -> list[_Split]:
    scale, found = table.columns[by], []
    for number, share in enumerate(SHARES):
        largest = np.quantile(scale, share, method="lower")
        seen = scale <= largest * 1.0001
        if (~seen).any():
            known = table.select(seen)
            distance = scale[~seen] / largest
            found.append(_Split(number, seen, known, table.select(~seen), distance, Places(known.columns)))
    return found


def _judge(law: Law, splits: Sequence[_Split], cost: Objective) -> HoldOut | None:
    distance, error, cut = [], [], []
    fits: list[Cut] = []
    for split in splits:
        known, beyond = split.known, split.beyond
        if len(known) < ROWS_PER_PARAMETER * len(law.params) or split.places.obstacles(law):
            continue
        fitted = fit_law(law, known.columns, known.loss, cost, every_start=EVERY_START)
        distance.append(split.distance)
        error.append(fitted.predict(beyond.columns) / beyond.loss - 1)
        cut.append(np.full(len(beyond), split.number))
        fits.append(Cut(split.number, fitted, split.seen, beyond.columns, beyond.loss))
    if not error:
        return None
    return HoldOut(law.name, np.concatenate(distance), np.concatenate(error), np.concatenate(cut), fits=tuple(fits))
