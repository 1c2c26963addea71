"""The law of the best learning rate from sweeps."""

import numpy as np
import pytest

from launch.scaling.other.tuning import fit_tuning
from launch.scaling.table.load import load
from tests.scaling.runs import surface_loss
from trainer.contract.errors import UserError


def sweeps(path, noise: float = 0.0, values: tuple[float, ...] = (0.25, 0.5, 1, 2, 4)):
    random, lines = np.random.default_rng(0), ["N,D,lr,loss"]
    for N in (1e7, 3e7, 1e8, 3e8):
        for D in (1e9, 4e9):
            best = 0.4 * N**-0.25 * D**0.05
            for factor in values:
                log_loss = np.log(surface_loss(N, D)) + 0.02 * np.log(factor) ** 2 + noise * random.standard_normal()
                lines.append(f"{N},{D},{best * factor!r},{float(np.exp(log_loss))!r}")
    path.write_text("\n".join(lines) + "\n")
    return load(path, trials=True)


def test_the_exponents_are_recovered(tmp_path) -> None:
    found = fit_tuning(sweeps(tmp_path / "t.csv"), "lr")
    assert found.values == pytest.approx({"k": 0.4, "curvature": 0.02, "p": -0.25, "q": 0.05}, rel=1e-6)
    assert found.num_cells == 8 and found.reasons == ()


def test_intervals_cover_under_noise(tmp_path) -> None:
    found = fit_tuning(sweeps(tmp_path / "t.csv", noise=0.002), "lr")
    low, high = found.intervals["p"]
    assert low < -0.25 < high and high - low < 0.3


def test_an_optimum_at_the_end_of_a_sweep_is_named(tmp_path) -> None:
    found = fit_tuning(sweeps(tmp_path / "t.csv", values=(1, 2, 4)), "lr")
    assert "at the end of the sweep in 8 of 8" in found.reasons[0]


def test_two_values_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="three values"):
        fit_tuning(sweeps(tmp_path / "t.csv", values=(0.5, 2)), "lr")
