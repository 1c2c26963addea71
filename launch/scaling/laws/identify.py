"""What a table cannot tell, whatever the fit says: decided from where the runs lie, before their losses are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from launch.scaling.arrays import Array, distinct_columns

SPREAD = 0.05  # standard deviation of a logarithm below which a quantity counts as held fixed
LINE_SPREAD = 0.15  # the same about a line of ln D on ln N: no design varies D/N by so little on purpose
NEAR = 1e-3  # values of which the logarithms differ by less are one
FEWEST_VALUES = 3  # of N, and of D
NARROW = 2.0  # from the smallest to the largest: a power is not told from its own curvature within less
SPARE, SLICES = 3, 4  # runs beyond the parameters of three curves in N, and sizes along them
NAMES = {"N": "N (parameters)", "D": "D (tokens)", "C": "C (FLOPs)"}


def log_spread(values: Array) -> float:
    """Return the standard deviation of the logarithm."""
    return float(np.std(np.log(values)))


def distinct(values: Array, most: int) -> int:
    """Count values that differ by more than a tenth of a percent, no further than `most`: so none need be sorted."""
    logs, found = np.log(values), 0
    while len(logs) and found < most:
        logs, found = logs[logs > logs.min() + NEAR], found + 1
    return found


def cells_of(columns: Mapping[str, Array], variables: Sequence[str]) -> Array:
    """Return the different logarithms (len(variables), n) at which there are runs, in order."""
    return distinct_columns(np.round(np.log(np.stack([columns[v] for v in variables])), 6))


def allocation_obstacles(columns: Mapping[str, Array]) -> list[str]:
    """Return why no law of N and D, and so no allocation N*, D*, can be told from these runs.

    The reasons are structural: all losses could be exact and the answer would still be open, or rest on the loss of one
    run that nothing tests.
    """
    return obstacles_of_cells(cells_of(columns, ("N", "D")))


def obstacles_of_cells(cells: Array) -> list[str]:
    """Return `allocation_obstacles` of runs at these different ln N, ln D (2, n)."""
    found = _obstacles(*np.exp(cells))
    for left_out in [] if found else _odd_cells(cells):
        without = _obstacles(*np.exp(np.delete(cells, left_out, axis=1)))
        if without:
            n, d = np.exp(cells[:, left_out])
            return [f"all rests on one run (N = {n:.3g}, D = {d:.3g}), which nothing tests. Without it: {without[0]}"]
    return found


def _odd_cells(cells: Array) -> list[int]:
    """Return the cells (2, n) of ln N, ln D without which the others may lie on a line or have one value less."""
    x, y = cells
    if len(x) < 4:
        return []
    slope, intercept = np.polyfit(x, y, 1)
    leverage = 1 / len(x) + (x - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)
    share = (y - slope * x - intercept) ** 2 / np.maximum(1 - leverage, 1e-9)  # of the sum of squares about the line
    total = x + y
    odd = [int(np.argmax(share)), int(np.argmax(np.abs(total - np.median(total))))]
    for values in cells:
        odd.append(int(np.argmax(np.abs(values - values.mean()))))
        if distinct(np.exp(values), FEWEST_VALUES + 1) == FEWEST_VALUES:
            _, first, counts = np.unique(values, return_index=True, return_counts=True)
            if counts.min() == 1:
                odd.append(int(first[np.argmin(counts)]))
    return list(dict.fromkeys(odd))


def _obstacles(N: Array, D: Array) -> list[str]:
    if log_spread(N) < SPREAD:
        return [f"one width: every run has N = {np.median(N):.3g}, so nothing says how the loss falls with N"]
    if log_spread(D) < SPREAD:
        return [
            f"fixed D: every run has D = {np.median(D):.3g} tokens, so nothing says how the loss falls with D: "
            "only L(N) at this D can be fitted, no allocation N*, D*"
        ]
    if log_spread(N * D) < SPREAD:
        return [
            f"one budget: every run has 6 N D near {6 * np.median(N * D):.3g} FLOPs, where a power of N is one of D: "
            "the best N there can be seen, but not how it grows, nor E. Add runs at other budgets"
        ]
    slope, scatter = _line(np.log(N), np.log(D))
    if scatter < LINE_SPREAD and slope > 0:
        if abs(slope - 1) < 0.1:
            what = f"fixed D/N: every run has D/N = {np.median(D / N):.3g} within {scatter:.1%}"
        else:
            what = f"D is a power of N in every run (D ~ N^{slope:.2f} within {scatter:.1%})"
        return [
            f"{what}, so A/N^alpha and B/D^beta fall together and cannot be told apart: no allocation N*, D*. "
            "Add runs at another D/N (several horizons of one size, or IsoFLOP grids)"
        ]
    for name, values in (("N", N), ("D", D)):
        if (found := distinct(values, FEWEST_VALUES)) < FEWEST_VALUES:
            return [
                f"only {found} different values of {NAMES[name]}: a floor, a coefficient and an exponent need three"
            ]
    for name, values in (("N", N), ("D", D)):
        if values.max() < NARROW * values.min():
            return [
                f"narrow: {NAMES[name]} spans a factor of {values.max() / values.min():.2f}, from {values.min():.3g} "
                f"to {values.max():.3g}, and less than {NARROW:g} says nothing of larger ones: a small error of one "
                "size moves the exponent. Add runs that are smaller or larger"
            ]
    return []


def curve_obstacles(columns: Mapping[str, Array], num_params: int) -> list[str]:
    """Return why a law whose floor, coefficient and exponent of D are curves of three parameters in N cannot be told.

    One size needs three D to tell its floor, coefficient and exponent; three sizes fix three curves, and a fourth is
    the first to test them. Sizes that are all different are taken together with their neighbours.
    """
    N, D = columns["N"], columns["D"]
    if len(N) < num_params + SPARE:
        return [f"{len(N)} runs for {num_params} parameters: {num_params + SPARE} are the least that test its curves"]
    if (found := distinct(N, SLICES)) < SLICES:
        return [
            f"only {found} different values of {NAMES['N']}: floor, coefficient and exponent change with N along "
            f"curves of three parameters each, which need {SLICES} sizes"
        ]
    sizes = np.unique(np.round(np.log(N), 3))
    for part in np.array_split(sizes, SLICES):
        mine = (np.log(N) > part[0] - 1e-3) & (np.log(N) < part[-1] + 1e-3)
        if (found := distinct(D[mine], 3)) < 3:
            low, high = f"{N[mine].min():.3g}", f"{N[mine].max():.3g}"
            return [
                f"only {'one' if found == 1 else 'two'} D in the runs of N = {low}"
                + (f" to {high}" if low != high else "")
                + f": a floor, a coefficient and an exponent at each of {SLICES} sizes need three"
            ]
    return []


def one_variable_obstacles(variable: str, columns: Mapping[str, Array], num_params: int) -> list[str]:
    """Return why no law of this one variable can be told from these runs."""
    values = columns[variable]
    if log_spread(values) < SPREAD:
        return [f"every run has {NAMES[variable]} = {np.median(values):.3g}: there is no ladder to fit"]
    if (found := distinct(values, num_params)) < num_params:
        return [f"{found} different values of {NAMES[variable]} for {num_params} parameters"]
    return []


def _line(x: Array, y: Array) -> tuple[float, float]:
    """Return the slope of y on x and the standard deviation about the line."""
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), float(np.std(y - slope * x - intercept))
