"""The law as it stands, for the page: the finished cells of a sweep's ledger, the fitted curves, and the verdict."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.contract.errors import UserError

POINTS, REPLICATES = 60, 300  # of a curve; of the bootstrap behind its band
REACH = 2.0  # how far beyond the largest cell a curve is drawn
FEWEST = 3  # finished cells that a law needs
Law = dict[str, Any]  # plain values: sweep, counts, points, curves, lines


def law_of(ledger: Path) -> Law:
    """Return the law of a ledger: one of N and D where its cells identify that, else one of N for each family.

    What the cells do not tell is said in `lines`; there may be no curve. Takes seconds: it fits and bootstraps.
    """
    from launch.scaling.report.hover import run_names
    from launch.scaling.table.load import load  # late, as below: scipy takes longer to load than a screen may take

    law: Law = {"sweep": ledger.parent.name, "counts": "", "points": [], "curves": [], "lines": []}
    try:
        table = load(ledger)
        law["counts"] = table.counting
        groups = table.labels["group"]
        law["points"] = [
            [float(table.N[i]), float(table.loss[i]), name, str(groups[i])] for i, name in enumerate(run_names(table))
        ]
        if len(table) < FEWEST:
            raise UserError(f"{len(table)} finished cells; a law needs {FEWEST} at least")
        law["curves"], law["lines"] = _fitted(table)
    except (UserError, OSError) as error:
        law["lines"] = [str(error)]
    return law


def _fitted(table: Any) -> tuple[list[Law], list[str]]:
    from launch.scaling.report import surface as of_surface
    from launch.scaling.report.analysis import analyse
    from launch.scaling.table.families import families_of

    if (surface := analyse(table)) is not None:
        return list(_sections_at_lengths(table, surface.fitted)), of_surface.headline(surface)
    families = families_of(table)
    curves, lines = [], []
    for family in families:
        alone = table.select(table.labels["group"] == family)
        try:
            curve, said = _ladder(alone, family)
        except UserError as error:
            curve, said = None, [str(error)]
        curves += [] if curve is None else [curve]
        lines += said if len(families) == 1 else [f"{family}: {line}" for line in said]
    return curves, list(dict.fromkeys(lines))  # held-out cells of one size have forecasts in common


def _ladder(table: Any, family: str) -> tuple[Law | None, list[str]]:
    import numpy as np

    from launch.scaling.other.ladder import fit_ladder
    from launch.scaling.report.ladder import headline
    from launch.scaling.trust.certify import certify

    ladder = fit_ladder(table, replicates=REPLICATES)
    law = ladder.preferred
    certificate = certify(law.fitted)
    lines = [*headline(ladder), f"The fit of {law.fitted.law.formula} is {certificate.status}.", *certificate.reasons]
    lines += [f"{reason[0].upper()}{reason[1:]}." for reason in law.reasons if reason not in certificate.reasons]
    if ladder.variable != "N":
        return None, lines
    sizes = np.geomspace(table.N.min() / 1.3, table.N.max() * REACH, POINTS)
    band = law.band("N", sizes)
    return _curve(family, sizes, law.fitted.predict({"N": sizes}), band), lines


def _sections_at_lengths(table: Any, fitted: Any) -> Iterator[Law]:
    """Yield the law of N and D at the least, the middle and the largest D, with 95 % of its bootstrap."""
    import numpy as np

    from launch.scaling.report.surface_figures import LENGTHS
    from launch.show.text import count

    sizes = np.geomspace(table.N.min(), table.N.max() * REACH, POINTS)
    for tokens in np.unique(np.quantile(table.D, LENGTHS)):
        columns = {"N": sizes, "D": np.full(POINTS, tokens)}
        band = None if fitted.draws is None else np.quantile(fitted.predict_draws(columns), [0.025, 0.975], axis=0)
        yield _curve(f"D = {count(float(tokens))}", sizes, fitted.predict(columns), band)


def _curve(name: str, sizes: Any, losses: Any, band: Any) -> Law:
    rounded = [[round(float(value), 5) for value in values] for values in (losses, *(() if band is None else band))]
    return {"name": name, "x": [float(f"{size:.6g}") for size in sizes], "y": rounded[0], "band": rounded[1:]}


class Laws:
    """The laws of ledgers, fitted anew in the background when one has changed, one at a time."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[float, Law]] = {}
        self._wanted: dict[Path, float] = {}
        self._worker: threading.Thread | None = None
        self._lock = threading.Lock()

    def of(self, ledgers: Sequence[Path], *, wait: bool = False) -> list[Law]:
        """Return what is known of the laws of these ledgers. With `wait`, that is the law of each as it is now."""
        stale = {ledger: stamp for ledger in ledgers if (stamp := _stamp(ledger)) and stamp != self._stamp_of(ledger)}
        if wait:
            self._fit(stale)
        elif stale and (self._worker is None or not self._worker.is_alive()):
            self._worker = threading.Thread(target=self._fit, args=(stale,), daemon=True)
            self._worker.start()
        with self._lock:
            return [
                {**self._known[ledger][1], "stale": ledger in stale and not wait}
                if ledger in self._known
                else {"sweep": ledger.parent.name, "counts": "", "points": [], "curves": [], "lines": [], "stale": True}
                for ledger in ledgers
            ]

    def _fit(self, stale: dict[Path, float]) -> None:
        for ledger, stamp in stale.items():
            law = law_of(ledger)
            with self._lock:
                self._known[ledger] = (stamp, law)

    def _stamp_of(self, ledger: Path) -> float | None:
        with self._lock:
            return self._known[ledger][0] if ledger in self._known else None


def _stamp(ledger: Path) -> float | None:
    try:
        return ledger.stat().st_mtime
    except OSError:
        return None
