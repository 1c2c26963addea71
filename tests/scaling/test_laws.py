"""Every law: its derivatives, its published parameters back from noise-free losses, and published tables."""

import csv

import numpy as np
import pytest

from launch.scaling.fit.fit import fit_law
from launch.scaling.fit.objective import HUBER, SQUARES
from launch.scaling.fit.prepare import prepare
from launch.scaling.laws.base import Centre, numeric_curvature
from launch.scaling.laws.groups import SharedExponents, behind
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import FIXED
from launch.scaling.laws.repeated import DataConstrained
from launch.scaling.other.isoflop import exponents, fit_frontier, run_noise
from launch.scaling.table.load import load
from launch.scaling.trust.certify import certify
from launch.scaling.trust.holdout import hold_out
from launch.scaling.trust.study import study
from tests.conftest import shared_data
from tests.scaling.runs import SURFACE, isoflop_grid, surface_loss

MUENNIGHOFF = {
    "A": np.exp(6.255414), "B": np.exp(7.3049974), "E": np.exp(0.6254804), "alpha": 0.3526596, "beta": 0.3526596,
}  # fmt: skip
LAWS = [*FIXED.values(), DataConstrained(MUENNIGHOFF), SharedExponents(CHINCHILLA, ("b",))]


def scattered(num: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    columns = {
        "N": 10 ** random.uniform(7, 9, num),
        "D": 10 ** random.uniform(9, 11, num),
        "U": 10 ** random.uniform(8, 9.5, num),
        "is:b": np.where(np.arange(num) % 2, np.e, 1.0),
    }
    return columns | {"C": 6 * columns["N"] * columns["D"]}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_jacobian_and_curvature_match_differences(law) -> None:
    columns = scattered()
    x = Centre.of(columns, law).logs({v: columns[v] for v in law.variables})
    start = law.starts(x, surface_loss(columns["N"], columns["D"]))[:6]
    theta = start + 0.02 * np.random.default_rng(1).standard_normal(start.shape)
    log_loss, jacobian = law.log_loss(theta, x)
    for k in range(theta.shape[1]):
        shift = np.eye(theta.shape[1])[k] * 1e-6
        difference = (law.log_loss(theta + shift, x)[0] - law.log_loss(theta - shift, x)[0]) / 2e-6
        assert np.allclose(jacobian[:, k], difference, atol=1e-7)
    weights = np.random.default_rng(2).standard_normal(log_loss.shape)
    assert np.allclose(law.curvature(theta, x, weights), numeric_curvature(law, theta, x, weights), atol=1e-6)


def test_the_outer_exponent_is_recovered() -> None:
    columns = scattered(60)
    loss = 1.5 + (2e4 / columns["N"] ** 0.6 + 3e4 / columns["D"] ** 0.5) ** 0.5
    found = fit_law(FIXED["outer"], columns, loss).values
    expected = {"E": 1.5, "A": 2e4, "B": 3e4, "alpha": 0.6, "beta": 0.5, "q": 0.5}
    assert found == pytest.approx(expected, rel=1e-6)


def test_kaplans_law_of_n_and_d_is_recovered() -> None:
    columns = scattered(60)
    loss = ((8.8e13 / columns["N"]) ** (0.076 / 0.095) + 5.4e13 / columns["D"]) ** 0.095
    found = fit_law(FIXED["kaplan-ND"], columns, loss).values
    assert found == pytest.approx({"Nc": 8.8e13, "Dc": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}, rel=1e-6)


def test_over_training_in_compute_and_ratio_is_recovered() -> None:
    columns = scattered(60)
    M = columns["D"] / columns["N"]
    loss = 1.8 + (90 * M**0.14 + 220 * M**-0.14) * columns["C"] ** -0.14
    found = fit_law(FIXED["over-training"], columns, loss).values
    assert found == pytest.approx({"E": 1.8, "u": 90, "v": 220, "eta": 0.14}, rel=1e-6)


def test_farseer_contains_chinchilla() -> None:
    columns = scattered(80)
    fitted = fit_law(FIXED["farseer"], columns, surface_loss(columns["N"], columns["D"]))
    assert np.abs(fitted.residuals).max() < 1e-3


def test_farseers_law_is_certified_or_refused_with_its_allocation() -> None:
    random = np.random.default_rng(2)
    columns = scattered(120)
    loss = surface_loss(columns["N"], columns["D"]) * np.exp(0.002 * random.standard_normal(120))
    certificate = certify(fit_law(FIXED["farseer"], columns, loss))
    assert "ln N*" in certificate.profiles and certificate.condition > 1


@pytest.mark.parametrize(
    ("N", "D", "reason"),
    [
        (np.repeat([1e8, 3e8, 1e9], 6), np.tile(np.geomspace(1e9, 1e11, 6), 3), "only 3 different values of N"),
        (np.repeat(np.geomspace(1e8, 1e9, 5), 3), np.tile([1e9, 1e10, 1e10], 5), "only 2 different values of D"),
        (np.geomspace(1e8, 1e9, 11), np.geomspace(1e11, 1e9, 11), "11 runs for 9 parameters"),
        (
            np.append(np.repeat(np.geomspace(1e8, 6e8, 6), 3), [7e8, 8e8]),
            np.append(np.tile([1e9, 3e9, 9e9], 6), [9e9, 9e9]),
            "only one D in the runs",
        ),
    ],
)
def test_farseers_law_is_refused_before_it_is_fitted_where_runs_cannot_tell_its_curves(tmp_path, N, D, reason) -> None:
    path = tmp_path / "t.csv"
    rows = zip(N.tolist(), D.tolist(), surface_loss(N, D).tolist(), strict=True)
    path.write_text("N,D,loss\n" + "\n".join(",".join(map(repr, r)) for r in rows) + "\n")
    result = study(load(path), FIXED["farseer"])
    assert result.fitted is None and result.certificate.status == "refused"
    assert reason in result.certificate.reasons[0]


def test_multipliers_of_a_second_family_are_recovered(tmp_path) -> None:
    columns = scattered(60)
    second = columns["is:b"] > 2
    N, D = columns["N"] * np.where(second, 0.4, 1), columns["D"] * np.where(second, 0.8, 1)
    path = tmp_path / "t.csv"
    lines = ["N,D,loss,family"]
    lines += [
        f"{n!r},{d!r},{loss!r},{'lstm' if s else 'transformer'}"
        for n, d, loss, s in zip(
            columns["N"].tolist(), columns["D"].tolist(), surface_loss(N, D).tolist(), second, strict=True
        )
    ]
    path.write_text("\n".join(lines) + "\n")
    prepared = prepare("shared-exponents", load(path), reference="transformer")
    fitted = fit_law(prepared.law, prepared.table.columns, prepared.table.loss)
    (found,) = behind(prepared.law, prepared.law.public(fitted.theta[None], fitted.centre), None)
    assert found.group == "lstm" and found.parameters[0] == pytest.approx(1 / 0.4, rel=1e-6)
    assert found.tokens[0] == pytest.approx(1 / 0.8, rel=1e-6) and found.flops[0] == pytest.approx(1 / 0.32, rel=1e-6)


def test_a_published_value_of_the_data_constrained_law() -> None:
    law = DataConstrained(MUENNIGHOFF)
    x = {"N": np.log([6.34e9]), "D": np.log([242e9]), "U": np.log([25e9])}
    value = np.exp(law.log_loss(np.log([[15.387756, 5.309743]]), x)[0][0, 0])
    assert value == pytest.approx(2.2256440890, abs=5e-9)


def test_repetition_that_costs_nothing_is_the_law_without_repetition_at_any_r() -> None:
    law, columns = DataConstrained(MUENNIGHOFF), scattered()
    columns["N"] = np.minimum(columns["N"], law.optimal_n(columns["U"]))
    x = {v: np.log(columns[v]) for v in ("N", "D", "U")}
    fresh = np.log(surface_loss(columns["N"], columns["D"], MUENNIGHOFF))
    for log_r in (25.0, 40.0, 100.0):
        log_loss, jacobian = law.log_loss(np.array([[log_r, log_r]]), x)
        assert np.allclose(log_loss[0], fresh, atol=1e-9) and (jacobian <= 0).all() and np.abs(jacobian).max() < 1e-8


def test_the_published_repetition_constants_are_a_local_optimum_and_flat() -> None:
    table = load(shared_data("scaling/datablations_c4_182.csv"))
    result = study(table, DataConstrained(MUENNIGHOFF))
    assert result.fitted is not None and result.fitted.objective <= 0.0158047
    x = result.fitted.centre.logs({v: table.columns[v] for v in ("N", "D", "U")})
    published = result.law.log_loss(np.log([[15.387756, 5.309743]]), x)[0] - np.log(table.loss)
    assert HUBER.rho(published).sum() == pytest.approx(0.01582594, abs=1e-8)
    low, high = result.certificate.intervals(result.law)["R_D"]
    assert low < 12 and high > 1000
    assert result.certificate.status == "weak" and any("R_D is nearly flat" in r for r in result.certificate.reasons)


def test_porian_exponents_lie_in_their_published_intervals() -> None:
    points = shared_data("scaling/porian_isoflop_points.csv")
    keys = ("file", "dataset", "hparams", "warmup", "decay", "param_count", "val")
    with shared_data("scaling/porian_published_fits.csv").open() as lines:
        published = list(csv.DictReader(lines))
    assert len(published) == 15
    for row in published:
        mapping = {"N": "n", "C": "flops", "D": "tokens", "loss": "loss"}
        frontier = fit_frontier(load(points, mapping, where={k: row[k] for k in keys}), "isoflop-akima", bootstrap=0)
        assert float(row["a_lo"]) <= frontier.exponent <= float(row["a_hi"])
        assert len(frontier.optima) == int(row["n_opt"])


def test_all_approaches_agree_on_a_noise_free_grid(tmp_path) -> None:
    N, D = isoflop_grid(np.geomspace(1e18, 1e21, 7), num_sizes=15, width=3.0)
    path = tmp_path / "t.csv"
    rows = zip(N.tolist(), D.tolist(), surface_loss(N, D).tolist(), strict=True)
    path.write_text("N,D,loss\n" + "\n".join(",".join(map(repr, r)) for r in rows) + "\n")
    expected = SURFACE["beta"] / (SURFACE["alpha"] + SURFACE["beta"])
    found = exponents(load(path))
    assert found["isoflop-parabola"] == pytest.approx(expected, abs=2e-3)
    assert found["isoflop-akima"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("column", ["ce_c4_en", "ce_wikitext_103"])
def test_the_olmo_ladder_predicts_its_7b_and_13b(column) -> None:
    mapping = {"N": "N_nonembed", "D": "tokens", "loss": column}
    table = load(shared_data("scaling/olmo_ladder_final.csv"), mapping)
    small, large = table.select(table.N < 4e9), table.select(table.N > 4e9)
    fitted = study(small, CHINCHILLA, bootstrap=500).fitted
    low, high = np.quantile(fitted.predict_draws(large.columns), [0.025, 0.975], axis=0)
    assert len(large) == 2 and ((low < large.loss) & (large.loss < high)).all()
    assert np.abs(fitted.predict(large.columns) / large.loss - 1).max() < 0.005


def test_hold_out_prefers_the_law_that_made_the_data(tmp_path) -> None:
    columns = scattered(80, seed=4)
    loss = 1.5 + (2e4 / columns["N"] ** 0.6 + 3e4 / columns["D"] ** 0.5) ** 0.5
    noisy = loss * np.exp(5e-4 * np.random.default_rng(0).standard_normal(80))
    path = tmp_path / "t.csv"
    rows = zip(columns["N"].tolist(), columns["D"].tolist(), noisy.tolist(), strict=True)
    path.write_text("N,D,loss\n" + "\n".join(",".join(map(repr, r)) for r in rows) + "\n")
    assert hold_out(load(path))[0].law == "outer"


@pytest.mark.parametrize(("column", "published"), [("params_nonembed", 0.080), ("params_total", 0.096)])
def test_pythias_exponent_depends_on_what_n_counts(column, published) -> None:
    path = shared_data("scaling/cerebras_pythia_losses.csv")
    table = load(path, {"N": column, "D": "tokens", "loss": "loss"}, where={"suite": "pythia"})
    found = fit_law(FIXED["power-N"], table.columns, table.loss, SQUARES).values["alpha"]
    assert found == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("noise", [0.0005, 0.004])
def test_the_noise_of_runs_is_told_from_isoflop_curves(noise: float) -> None:
    random = np.random.default_rng(1)
    curves = []
    for centre in np.linspace(16, 20, 12):
        sizes = centre + np.linspace(-1.5, 1.5, 9)
        curves.append((sizes, 0.02 * (sizes - centre) ** 2 + noise * random.standard_normal(9)))
    assert run_noise(curves) == pytest.approx(noise, rel=0.3)
