"""Which runs to make: families of cells for a budget, and what each would tell about the target.

The expected standard deviations come from the Fisher information about a prior law: with independent errors of
log loss of standard deviation sigma, the covariance of the parameters is sigma^2 (J'J)^-1. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.arrays import Array
from launch.scaling.laws.base import Centre
from launch.scaling.laws.identify import allocation_obstacles
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.trust.profile import gradient_of
from trainer.contract.errors import UserError

# Besiroglu et al. 2024 (arXiv 2404.10102): the corrected fit of Hoffmann et al.'s runs.
PRIOR_NAME = "Besiroglu et al. 2024"
PRIOR = {"E": 1.8172, "A": 477.8, "B": 2143.0, "alpha": 0.3473, "beta": 0.3672}
NOISE = 0.003  # standard deviation of log loss of one run: seeds and lack of fit
COOLDOWN = 0.2  # of a branch's length, as in Hagele et al. 2024 (arXiv 2405.18392)
FAMILIES = {
    "isoflop": "IsoFLOP grids",
    "ladder": "N x D ladder",
    "grid": "N x D grid",
    "trunks": "trunks with cooldown branches",
    "fixed-d": "fixed D family",
    "fixed-ratio": "fixed D/N ladder",
}
UNKNOWN = 10.0  # a standard deviation of ln N* above this is no information


@dataclass(frozen=True)
class Cell:
    """One run. `trunk` names the run that it branches from, for cooldowns."""

    N: float
    D: float
    cost: float  # training FLOPs that it adds
    trunk: str = ""


@dataclass(frozen=True)
class Design:
    """A family of cells. Standard deviations are infinite where the family cannot tell."""

    name: str
    cells: tuple[Cell, ...]
    sd_log_n: float  # of ln N* at the target
    sd_log_ratio: float  # of ln D*/N*
    sd_loss: float  # of the loss of the best run at the target, nats
    why_not: str

    @property
    def cost(self) -> float:
        """Return the FLOPs of all cells."""
        return float(sum(c.cost for c in self.cells))


@dataclass(frozen=True)
class Question:
    """What is asked of a design: the target budget, believed under which law, with how much noise."""

    target: float
    law: Mapping[str, float]
    noise: float = NOISE

    @property
    def theta(self) -> Array:
        """Return the assumed law as the fitter's internal parameters (1, p)."""
        return CHINCHILLA.internal(np.array([[self.law[name] for name in CHINCHILLA.params]]), self.centre)

    @property
    def centre(self) -> Centre:
        """Centre of the internal parameters: a tenth of the way from the target's optimum to small runs."""
        return Centre({"N": float(np.log(1e8)), "D": float(np.log(2e9))})

    def information(self, N: Array, D: Array) -> Array:
        """Return the Fisher information (n, p, p) of one run at each place."""
        _, jacobian = CHINCHILLA.log_loss(self.theta, self.centre.logs({"N": N, "D": D}))
        return np.asarray(np.einsum("pn,qn->npq", jacobian[0], jacobian[0]) / self.noise**2)

    def gradients(self) -> tuple[Array, Array]:
        """Return the gradients (p,) of ln N* and of the loss at the target in the internal parameters."""

        def log_n(theta: Array) -> Array:
            return CHINCHILLA.log_optimal_n(theta, self.centre, self.target)

        best = float(log_n(self.theta)[0])
        columns = {"N": np.array([np.exp(best)]), "D": np.array([self.target / 6 / np.exp(best)])}
        log_loss, jacobian = CHINCHILLA.log_loss(self.theta, self.centre.logs(columns))
        # At the optimum the loss does not change with N to first order: only the law's own derivative counts.
        return gradient_of(log_n, self.theta)[0], np.exp(log_loss[0, 0]) * jacobian[0, :, 0]

    def deviations(self, information: Array) -> tuple[float, float]:
        """Return the standard deviations of ln N* and of the loss at the target for an information (p, p)."""
        scale = np.sqrt(np.maximum(np.diag(information), 1e-300))
        values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
        found = []
        for gradient in self.gradients():
            along = vectors.T @ (gradient / scale)
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = np.where(np.abs(along) > 1e-9, along**2 / np.maximum(values, 1e-14), 0.0)
            found.append(float(np.sqrt(terms.sum())))
        return found[0], found[1]


def judge(name: str, cells: Sequence[Cell], question: Question) -> Design:
    """Return a design with its expected standard deviations."""
    N, D = np.array([c.N for c in cells]), np.array([c.D for c in cells])
    why_not = allocation_obstacles({"N": N, "D": D})
    sd_n, sd_loss = question.deviations(question.information(N, D).sum(axis=0))
    if sd_n > UNKNOWN:
        sd_n = np.inf
    return Design(name, tuple(cells), sd_n, 2 * sd_n, sd_loss, why_not[0] if why_not else "")


def propose(budget: float, smallest: float, largest: float, question: Question) -> list[Design]:
    """Return one design of each family that spends the budget, the most telling first.

    Sizes lie between `smallest` and `largest`. Raises `UserError` when that leaves no room.
    """
    if not 0 < smallest < largest:
        raise UserError(f"sizes from {smallest:.3g} to {largest:.3g}: the first has to be the smaller one")
    if budget < 60 * smallest**2:
        raise UserError(
            f"{budget:.2g} FLOPs are fewer than a few runs of {smallest:.3g} parameters on 20 tokens each would cost "
            f"({120 * smallest**2:.2g} one): give a larger budget or smaller sizes"
        )
    families = {
        "isoflop": lambda s: isoflop(s, smallest, largest, question),
        "ladder": lambda s: ladder(s, smallest, largest),
        "grid": lambda s: grid(s, smallest, largest),
        "trunks": lambda s: trunks(s, smallest, largest),
        "fixed-d": lambda s: fixed_d(s, smallest, largest),
        "fixed-ratio": lambda s: fixed_ratio(s, smallest, largest),
    }
    designs = [judge(FAMILIES[name], _spend(build, budget), question) for name, build in families.items()]
    return sorted(designs, key=lambda d: (d.why_not != "", d.sd_log_n))


def _spend(build: object, budget: float) -> list[Cell]:
    """Scale a family by bisection so that it costs the budget."""
    assert callable(build)
    low, high = np.log(1e-6), np.log(1e6)
    for _ in range(60):
        middle = (low + high) / 2
        cost = sum(c.cost for c in build(float(np.exp(middle))))
        low, high = (middle, high) if cost < budget else (low, middle)
    cells: list[Cell] = build(float(np.exp(low)))
    return cells


def isoflop(scale: float, smallest: float, largest: float, question: Question) -> list[Cell]:
    """Four budgets a factor 4 apart, seven sizes over a factor of 16 about the prior's optimum."""
    cells = []
    top = scale * 6 * 20 * largest**2
    for flops in top / 4.0 ** np.arange(4):
        best = float(np.exp(CHINCHILLA.log_optimal_n(question.theta, question.centre, flops)[0]))
        for N in np.clip(np.geomspace(best / 4, best * 4, 7), smallest, largest):
            cells.append(Cell(float(N), float(flops / 6 / N), float(flops)))
    return _distinct(cells)


def ladder(scale: float, smallest: float, largest: float) -> list[Cell]:
    """Five sizes, each on four horizons from 5 to 80 tokens per parameter."""
    return [
        Cell(float(N), float(N * r * scale), float(6 * N * N * r * scale))
        for N in np.geomspace(smallest, largest, 5)
        for r in (5, 12.5, 32, 80)
    ]


def grid(scale: float, smallest: float, largest: float) -> list[Cell]:
    """Four sizes, each on the same four horizons a factor of two apart."""
    return [
        Cell(float(N), float(D), float(6 * N * D))
        for N in np.geomspace(smallest, largest, 4)
        for D in 20 * largest * scale * np.array([0.125, 0.25, 0.5, 1])
    ]


def trunks(scale: float, smallest: float, largest: float) -> list[Cell]:
    """Five sizes with one warmup-stable-decay trunk each, cooled down at four horizons.

    A branch pays for its cooldown alone; the longest one pays for the trunk.
    """
    cells = []
    for k, N in enumerate(np.geomspace(smallest, largest, 5)):
        lengths = N * np.array([5, 12.5, 32, 80]) * scale
        for D in lengths:
            added = D if lengths[-1] == D else COOLDOWN * D
            cells.append(Cell(float(N), float(D), float(6 * N * added), trunk=f"trunk-{k + 1}"))
    return cells


def fixed_d(scale: float, smallest: float, largest: float) -> list[Cell]:
    """Seven sizes on the same tokens."""
    D = scale * 20 * largest
    return [Cell(float(N), float(D), float(6 * N * D)) for N in np.geomspace(smallest, largest, 7)]


def fixed_ratio(scale: float, smallest: float, largest: float) -> list[Cell]:
    """Seven sizes at one number of tokens per parameter."""
    return [
        Cell(float(N), float(20 * scale * N), float(120 * scale * N * N)) for N in np.geomspace(smallest, largest, 7)
    ]


def _distinct(cells: Sequence[Cell]) -> list[Cell]:
    seen: dict[tuple[float, float], Cell] = {}
    for cell in cells:
        seen.setdefault((round(np.log(cell.N), 3), round(np.log(cell.D), 3)), cell)
    return list(seen.values())
