"""No search from the published starts finds a lower objective than the fit, on tables made to be hard."""

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize

from benchmarks.fit import GRID, objective
from launch.scaling.fit.fit import fit_law
from launch.scaling.fit.newton import _solve_damped, minimise
from launch.scaling.fit.objective import HUBER, SQUARES
from launch.scaling.laws.groups import SharedExponents
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import FIXED
from tests.scaling.runs import surface_loss

STARTS = 25
TABLES = {  # seed, E, exponents of N and D, coefficients at the centre, noise, shape
    "N plays no part": (1, 1.7, 0.3, 0.6, 0.0, 0.8, 1e-4, "random"),
    "no floor": (2, 0.0, 0.3, 0.3, 1.0, 1.5, 0.003, "grid"),
    "D all but fixed and no floor": (3, 0.0, 0.05, 0.25, 0.1, 0.2, 1e-4, "fixed D"),
    "six runs": (4, 1.7, 0.35, 0.37, 0.5, 0.6, 0.01, "six"),
    "outliers": (5, 1.7, 0.35, 0.37, 0.5, 0.6, 0.003, "outliers"),
    "steep": (6, 2.5, 0.9, 1.1, 0.3, 0.4, 0.01, "grid"),
}


def table(seed, E, alpha, beta, a, b, noise, shape):
    random = np.random.default_rng(seed)
    count = 6 if shape == "six" else 48
    N, D = 3e7 * 10 ** random.uniform(-1, 1, count), 2e9 * 10 ** random.uniform(-1, 1, count)
    if shape == "grid":
        N, D = np.repeat(np.geomspace(1e7, 1e9, 7), 7), np.tile(np.geomspace(2e8, 2e10, 7), 7)
    if shape == "fixed D":
        D = 2e9 * np.exp(0.2 * random.standard_normal(count))
    truth = {"E": E, "A": a * 3e7**alpha, "B": b * 2e9**beta, "alpha": alpha, "beta": beta}
    loss = surface_loss(N, D, truth) * np.exp(noise * random.standard_normal(len(N)))
    if shape == "outliers":
        loss[:5] *= 1.4
    return N, D, loss


@pytest.mark.parametrize("name", TABLES)
def test_no_search_from_the_published_starts_is_lower(name: str) -> None:
    N, D, loss = table(*TABLES[name])
    ours = fit_law(CHINCHILLA, {"N": N, "D": D}, loss).objective
    x, y, target, ones = np.log(N), np.log(D), np.log(loss), np.ones(len(N))
    starts = np.array(list(itertools.product(*GRID.values())))
    starts = starts[np.random.default_rng(0).permutation(len(starts))[:STARTS]]
    found = [
        scipy_minimize(_scaled, s, (x, y, target, ones), jac=True, method="L-BFGS-B", options=LONG).fun for s in starts
    ]
    assert ours <= min(found) / SCALE * (1 + 1e-9)


SCALE = 1e6  # a solver's tolerances are absolute
LONG = {"maxiter": 3000, "maxfun": 2500, "ftol": 1e-15, "gtol": 1e-9}


def _scaled(theta, *data):
    value, gradient = objective(theta, *data)
    return SCALE * value, SCALE * gradient


def test_a_term_that_serves_the_last_run_alone_is_found() -> None:
    N, D, loss = table(*TABLES["N plays no part"])
    loss[np.argmax(N)] *= 1.02
    ours = fit_law(CHINCHILLA, {"N": N, "D": D}, loss)
    problem, start = ours.problem(), ours.theta.copy()
    start[1:3] = -8.0 * problem.x["N"].max() - 4.0, -8.0
    found = minimise(problem, start[None])
    assert ours.objective <= found.objective[0] * (1 + 1e-9)
    assert ours.values["alpha"] < -1.0


def test_singular_problems_in_a_batch_do_not_stop_the_others() -> None:
    matrix = np.array([np.diag([2.0, 4.0]), np.ones((2, 2)), np.zeros((2, 2)), np.full((2, 2), np.nan)])
    step = _solve_damped(matrix, np.zeros((4, 2)), np.array([[2.0, 2.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]))
    assert np.allclose(step[:3], [[-1.0, -0.5], [-0.5, -0.5], [0.0, 0.0]])
    assert np.isfinite(step).all()


LAWLESS = {  # law, runs, objective, seeds: where a term serves few runs, one family or one end
    "kaplan-ND": (FIXED["kaplan-ND"], 6, HUBER, (0,)),
    "shared-exponents": (SharedExponents(CHINCHILLA, ("b",)), 30, SQUARES, (1, 4)),
    "farseer": (FIXED["farseer"], 40, SQUARES, (3, 5)),
}


@pytest.mark.parametrize("name", LAWLESS)
def test_no_random_restart_is_lower_on_losses_that_follow_no_law(name: str) -> None:
    law, runs, cost, seeds = LAWLESS[name]
    for seed in seeds:
        random = np.random.default_rng(seed)
        columns = {"N": 10 ** random.uniform(7, 9, runs), "D": 10 ** random.uniform(9, 11, runs)}
        columns["is:b"] = np.where(random.random(runs) < 0.5, np.e, 1.0)
        loss = np.exp(random.uniform(0.5, 1.5, runs))
        fitted = fit_law(law, columns, loss, cost)
        problem = fitted.problem()
        starts = np.tile(law.starts(problem.x, loss), (8, 1))
        starts = starts + random.choice([0.3, 1.0, 3.0], (len(starts), 1)) * random.standard_normal(starts.shape)
        assert fitted.objective <= minimise(problem, starts, max_steps=200).objective.min() * (1 + 1e-9)


@pytest.mark.parametrize("law", [FIXED["chinchilla"], FIXED["outer"], FIXED["farseer"]], ids=lambda law: law.name)
def test_no_solution_is_above_its_start(law) -> None:
    N, D, loss = table(*TABLES["outliers"])
    fitted = fit_law(law, {"N": N, "D": D}, loss)
    problem = fitted.problem()
    start = fitted.theta + np.random.default_rng(0).standard_normal((40, len(fitted.theta)))
    begun = minimise(problem, start, max_steps=0).objective
    for steps in (1, 7, 60):
        assert (minimise(problem, start, max_steps=steps).objective <= begun).all()
