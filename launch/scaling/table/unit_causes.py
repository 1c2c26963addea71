"""Which mistake explains sizes that cannot be: another unit of N or D, or the two columns swapped.

Losses tell: at the right sizes those of text models lie near a published surface, at wrong ones far off it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.table.mapping import Source
from trainer.contract.errors import UserError

# A published surface (Besiroglu et al. 2024, arXiv 2404.10102) as a yardstick for units only, and where it was seen.
YARDSTICK = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}
YARDSTICK_N, YARDSTICK_D = 1e7, 1e8
UNITS = {"thousands": 1e3, "millions": 1e6, "billions": 1e9, "trillions": 1e12}
USUAL = (0.3, 3_000.0)  # tokens per parameter, median: outside it a unit may be wrong
NEAR, FAR = 0.15, 0.25  # of the loss, median: how near the yardstick explains losses, and how far off they are as given


def expected_loss(N: Array, D: Array) -> Array:
    """Return the loss of published models of text of these sizes."""
    p = YARDSTICK
    return np.asarray(p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"])


def _off(loss: Array, N: Array, D: Array) -> float:
    """Return the median error of the yardstick; infinite where the sizes are none that it was seen at."""
    if np.median(N) < YARDSTICK_N or np.median(D) < YARDSTICK_D:
        return float("inf")
    return float(np.median(np.abs(np.log(loss / expected_loss(N, D)))))


def likely_unit(columns: Mapping[str, Array], name: str) -> tuple[str, str] | None:
    """Return the unit of `name`, N or D, that the losses speak for, and its factor; None where they do not tell."""
    if name == "C" or not {"N", "D", "loss"} <= columns.keys():
        return None
    found = {unit: _off(columns["loss"], *_scaled(columns, name, by)) for unit, by in UNITS.items()}
    best, second = sorted(found, key=lambda unit: found[unit])[:2]
    if found[best] > NEAR or found[second] < found[best] + 0.02:
        return None
    return best, f"{UNITS[best]:.0e}".replace("e+0", "e").replace("e+", "e")


def _scaled(columns: Mapping[str, Array], name: str, by: float) -> tuple[Array, Array]:
    N, D = columns["N"], columns["D"]
    return (N * by, D) if name == "N" else (N, D * by)


def check_cause(columns: Mapping[str, Array], source: str, sources: Mapping[str, Source]) -> None:
    """Raise `UserError` where tokens per parameter are unusual and one mistake explains that and the losses.

    Whoever writes a conversion (`N="COLUMN*1"`) is taken at their word.
    """
    N, D, loss = columns["N"], columns["D"], columns["loss"]
    ratio = float(np.median(D / N))
    given = [t for t in ("N", "D") if t in sources]
    said = any(sources[t].as_said for t in given)
    if USUAL[0] <= ratio <= USUAL[1] or len(given) < 2 or said:
        return
    as_given = float(np.median(np.abs(np.log(loss / expected_loss(N, D)))))
    n, d = sources["N"].column, sources["D"].column
    causes = {f"N and D are swapped: --map N={_quoted(d)},D={_quoted(n)}": (D, N)}
    for unit, by in UNITS.items():
        text = f"{by:.0e}".replace("+0", "").replace("+", "")
        if ratio > USUAL[1]:
            causes[f'N is in {unit}: --map N="{n}*{text}"'] = (N * by, D)
        elif by > 1e3:  # thousands of tokens cannot be told from sequences: a warning says both
            causes[f'D is in {unit}: --map D="{d}*{text}"'] = (N, D * by)
    plausible = {c: _off(loss, *s) for c, s in causes.items() if USUAL[0] <= float(np.median(s[1] / s[0])) <= USUAL[1]}
    cause = min(plausible, key=lambda c: plausible[c], default=None)
    if cause is None or plausible[cause] > NEAR or as_given < FAR:
        return
    raise UserError(
        f"{source}: {ratio:.2g} tokens per parameter (median), and losses {as_given:.0%} off those of published models "
        f'of these sizes. It looks as if {cause} (if all is right, --map N="{n}*1",D={_quoted(d)})'
    )


def _quoted(column: str) -> str:
    return f'"{column}"' if not column.isidentifier() else column
