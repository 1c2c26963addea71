"""Simulated sweeps of known laws: where their runs lie, how they scatter, and what the best decision is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.optimum import golden_section
from launch.scaling.table.table import Table

TRUTH = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}
OTHER = {"E": 1.75, "A": 350.0, "B": 900.0, "alpha": 0.37, "beta": 0.34}
Surface = Callable[[Array, Array], Array]


def chinchilla(N: Array, D: Array) -> Array:
    """The surface of Besiroglu et al. 2024, arXiv 2404.10102."""
    return _powers(TRUTH, N, D)


def other(N: Array, D: Array) -> Array:
    """The same form with alpha above beta, so that N* grows more slowly than C^.5."""
    return _powers(OTHER, N, D)


def _powers(p: dict[str, float], N: Array, D: Array) -> Array:
    return np.asarray(p["E"] + p["A"] / N ** p["alpha"] + p["B"] / D ** p["beta"])


def coupled(N: Array, D: Array) -> Array:
    """An outer exponent of 0.6: N and D help each other, which Chinchilla's sum cannot say."""
    return np.asarray(TRUTH["E"] + ((2.3e4 / N**0.58) + (3.1e5 / D**0.61)) ** 0.6)


def interacting(N: Array, D: Array) -> Array:
    """Chinchilla's sum and a product of powers of both: none of the laws that the default command tries."""
    return np.asarray(chinchilla(N, D) + 2 * (1e8 / N * 2e9 / D) ** 0.25)


def without_floor(N: Array, D: Array) -> Array:
    """Two powers alone, E = 0."""
    return np.asarray(8 / N**0.09 + 60 / D**0.2)


def narrow(sizes: int, horizons: int) -> tuple[Array, Array]:
    """Sizes within a factor of 1.5."""
    N, D = np.geomspace(1e8, 1.5e8, sizes), np.geomspace(1e10, 3e11, horizons)
    return N.repeat(horizons), np.tile(D, sizes)


def grid(sizes: int, horizons: int) -> tuple[Array, Array]:
    N, D = np.geomspace(5e7, 1e9, sizes), np.geomspace(1e9, 2e10, horizons)
    return N.repeat(horizons), np.tile(D, sizes)


def isoflop(budgets: int, sizes: int) -> tuple[Array, Array]:
    C = np.geomspace(1e18, 6.4e19, budgets)
    best = 0.09 * (C / 6) ** 0.514
    N = (best[:, None] * np.geomspace(0.25, 4, sizes)).ravel()
    return N, C.repeat(sizes) / 6 / N


def scattered(runs: int) -> tuple[Array, Array]:
    random = np.random.default_rng(5)
    return 10 ** random.uniform(7.5, 10, runs), 10 ** random.uniform(9, 11.5, runs)


@dataclass(frozen=True)
class Case:
    """Where runs lie, how they scatter (log loss), and what the truth is."""

    places: tuple[Array, Array]
    sd: float = 0.003
    tails: int = 0  # degrees of freedom of Student's t; 0: normal
    shared_sd: float = 0.0  # an error that all runs of one group share
    shared_by: str = "N"  # what groups them: N, C (budget), or trunk, a column that names the sizes
    untuned: float = 0.0  # how much too high the loss of the smallest third of the sizes is, in logarithms
    cluster: str | None = None  # how a named law's bootstrap draws
    surface: Surface = chinchilla


CASES: dict[str, Case] = {
    "grid-8": Case(grid(4, 2)),
    "grid-16": Case(grid(4, 4)),
    "isoflop-28": Case(isoflop(4, 7)),
    "isoflop-28, heavy tails": Case(isoflop(4, 7), tails=3),
    "isoflop-28, sd 2 %": Case(isoflop(4, 7), sd=0.02),
    "grid-60": Case(grid(10, 6)),
    "grid-60, heavy tails": Case(grid(10, 6), tails=3),
    "scattered-240": Case(scattered(240)),
    "grid-60, sizes share errors": Case(grid(10, 6), sd=0.001, shared_sd=0.003),
    "the same, --cluster N": Case(grid(10, 6), sd=0.001, shared_sd=0.003, cluster="N"),
    "grid-16, sizes share errors, --cluster N": Case(grid(4, 4), sd=0.001, shared_sd=0.003, cluster="N"),
    "grid-20, the same": Case(grid(5, 4), sd=0.001, shared_sd=0.003, cluster="N"),
    "grid-36, the same": Case(grid(6, 6), sd=0.001, shared_sd=0.003, cluster="N"),
    "grid-60, another true law": Case(grid(10, 6), surface=coupled),
}
DECISIONS: dict[str, Case] = {
    "isoflop 6x6": Case(isoflop(6, 6)),
    "grid 6x5": Case(grid(6, 5)),
    "isoflop 6x6, alpha > beta": Case(isoflop(6, 6), surface=other),
    "grid 6x5, alpha > beta": Case(grid(6, 5), surface=other),
    "grid 3x3": Case(grid(3, 3)),
    "grid 5x3, heavy tails": Case(grid(5, 3), tails=3),
    "grid 6x6, sizes share errors": Case(grid(6, 6), sd=0.001, shared_sd=0.003),
    "isoflop 6x6, budgets share errors": Case(isoflop(6, 6), sd=0.001, shared_sd=0.003, shared_by="C"),
    "grid 8x5, trunks share errors": Case(grid(8, 5), sd=0.001, shared_sd=0.003, shared_by="trunk"),
    "grid 6x5, no floor": Case(grid(6, 5), sd=0.002, surface=without_floor),
    "grid 10x6, another true law": Case(grid(10, 6), surface=coupled),
    "grid 10x6, a law that is not tried": Case(grid(10, 6), surface=interacting),
    "grid 6x5, smallest third untuned": Case(grid(6, 5), untuned=0.02),
    "grid 10x6, narrow sizes": Case(narrow(10, 6)),
}


def simulate(case: Case, seed: int) -> Table:
    """Return one table of the case."""
    random, (N, D) = np.random.default_rng(seed), case.places
    noise = random.standard_normal(len(N))
    if case.tails:
        noise = random.standard_t(case.tails, len(N)) / (case.tails / (case.tails - 2)) ** 0.5
    groups, index = np.unique(np.round(np.log(N * D if case.shared_by == "C" else N), 6), return_inverse=True)
    shared = case.shared_sd * random.standard_normal(len(groups))[index]
    sizes = np.unique(N)
    smallest = sizes[len(sizes) // 3 - 1]
    loss = case.surface(N, D) * np.exp(case.sd * noise + shared + case.untuned * (smallest * 1.001 >= N))
    columns = {"N": N, "D": D, "C": 6 * N * D, "loss": loss}
    labels = {"trunk": np.array([f"trunk {k}" for k in index])} if case.shared_by == "trunk" else {}
    return Table("simulated", str(seed), columns, np.arange(1, len(N) + 1), labels)


def best_size(surface: Surface, flops: float) -> float:
    """Return the true N* of a budget."""
    low, high = np.log([[1e5], [1e13]])
    return float(np.exp(golden_section(lambda n: surface(np.exp(n), flops / 6 / np.exp(n)), low, high)[0]))
