"""Families of models: shared exponents are tested, each family has its own law, and questions reach it."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from launch.commands.fit import fit
from launch.commands.forecast import forecast
from launch.commands.optimal import optimal
from launch.scaling.laws.groups import SharedExponents, indicator_columns
from launch.scaling.laws.optimum import log_optimal_n
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.other.families import compare_families, exact_over_6nd
from launch.scaling.questions.saved_fit import load_fit
from launch.scaling.table.load import load
from launch.scaling.table.table import Table
from launch.scaling.trust.study import study
from tests.scaling.runs import SURFACE, isoflop_grid, surface_loss
from trainer.contract.errors import UserError

STEEP = {**SURFACE, "alpha": 0.42, "A": SURFACE["A"] * 1e8**0.08}  # the same loss at 1e8 parameters


def write(path: Path, second: dict[str, float], rho: float = 1.0, flops: tuple[float, float] | None = None) -> Path:
    """Write 28 runs each of families a, on SURFACE, and b, on `second` at rho N; `flops` over 6 N D of each."""
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4))
    random, lines = np.random.default_rng(0), ["family,N,D,loss" + (",C" if flops else "")]
    for k, (family, surface, by) in enumerate((("a", SURFACE, 1.0), ("b", second, rho))):
        losses = surface_loss(by * N, D, surface) * np.exp(0.002 * random.standard_normal(len(N)))
        for n, d, loss in zip(N.tolist(), D.tolist(), losses.tolist(), strict=True):
            lines.append(f"{family},{n},{d},{loss}" + (f",{6 * n * d * flops[k]}" if flops else ""))
    path.write_text("\n".join(lines) + "\n")
    return path


def asked(table: Path, *args: str) -> dict:
    command = [str(table), "--law", "shared-exponents", "--bootstrap", "100", "--json", *args]
    return json.loads(CliRunner().invoke(fit, command, catch_exceptions=False).stdout)


def test_exponents_that_are_shared_are_kept_with_their_test(tmp_path) -> None:
    answer = asked(write(tmp_path / "t.csv", SURFACE, rho=1.4))
    found = answer["families"]
    assert found["separate"] is False and found["test"]["freedom"] == [3, 46] and found["test"]["p_value"] > 0.01
    assert answer["certificate"]["status"] == "certified" and answer["behind"]["families"][0]["group"] == "b"
    a, b = (found["fits"][name] for name in "ab")
    assert a["params"]["alpha"] == b["params"]["alpha"] and a["params"]["E"] == b["params"]["E"]
    assert a["params"]["A"] / b["params"]["A"] == pytest.approx(1.4 ** a["params"]["alpha"], rel=0.02)


def test_exponents_that_differ_are_refused_and_separate_fits_printed(tmp_path) -> None:
    path = write(tmp_path / "t.csv", STEEP)
    answer = asked(path)
    found = answer["families"]
    assert found["separate"] and found["test"]["f_ratio"] > 20 and "behind" not in answer
    assert answer["certificate"]["status"] == "refused"
    assert answer["certificate"]["reasons"][0].startswith("families do not share exponents (F(3, 46) = ")
    alone = study(load(path, where={"family": "b"}), CHINCHILLA)
    assert alone.fitted is not None and found["fits"]["b"]["params"] == pytest.approx(alone.fitted.values, rel=1e-6)
    text = CliRunner().invoke(fit, [str(path), "--law", "shared-exponents", "--bootstrap", "100"]).output
    assert "do not share exponents" in text and "By fits of their own" in text and "rho_N" not in text


@pytest.mark.parametrize("second", [SURFACE, STEEP])
def test_the_next_command_is_one_that_works(tmp_path, second) -> None:
    path, saved = write(tmp_path / "t.csv", second, rho=1.3), tmp_path / "fit.json"
    run = CliRunner()
    said = run.invoke(fit, [str(path), "--law", "shared-exponents", "--bootstrap", "100", "--out", str(saved)])
    assert f"next: escala optimal --fit {saved} --family a" in said.output
    found = {}
    for family in "ab":
        args = ["--fit", str(saved), "--family", family]
        found[family] = json.loads(run.invoke(optimal, [*args, "--flops", "1e21", "--json"]).stdout)
        made = run.invoke(
            forecast, [*args, "--params", "1B", "--tokens", "20B", "--ledger", str(tmp_path / "f"), "--json"]
        )
        assert json.loads(made.stdout)["loss"] > 2
    printed = {f: d["decision"]["N"]["value"] for f, d in json.loads(saved.read_text())["families"]["fits"].items()}
    assert found["a"]["N"] == pytest.approx(printed["a"], rel=0.01)  # the largest budget is 1e20
    assert found["b"]["N"] == pytest.approx(printed["b"], rel=0.01) and found["a"]["N"] != found["b"]["N"]
    assert run.invoke(optimal, ["--fit", str(saved), "--flops", "1e21"]).exit_code == 0  # the reference
    with pytest.raises(UserError, match="no family 'c'"):
        load_fit(saved, family="c")


def test_a_fit_without_families_has_none_to_ask_for(tmp_path) -> None:
    path = tmp_path / "fit.json"
    path.write_text(json.dumps({"law": "chinchilla", "params": SURFACE}))
    with pytest.raises(UserError, match="leave --family out"):
        load_fit(path, family="a")


def test_a_family_of_few_runs_is_not_tested_and_that_is_said(tmp_path) -> None:
    path = write(tmp_path / "t.csv", SURFACE, rho=1.4)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:33]) + "\n")  # four runs of b
    found = asked(path)["families"]
    assert found["test"] is None and "wants 7 runs of a family, and there are b 4" in found["untested"]


def test_exact_flops_stand_beside_6nd(tmp_path) -> None:
    answer = asked(write(tmp_path / "t.csv", SURFACE, rho=0.5, flops=(1.1, 1.3)))
    (b,) = answer["behind"]["families"]
    assert b["exact_flops"][0] == pytest.approx(b["flops"][0] * 1.3 / 1.1)
    fits = answer["families"]["fits"]
    assert fits["b"]["exact_flops"] == pytest.approx(1.3 * answer["families"]["flops"])
    plain = asked(write(tmp_path / "u.csv", SURFACE, rho=0.5))
    assert plain["behind"]["families"][0]["exact_flops"] is None


def test_exact_flops_follow_the_size_and_stop_at_the_ends_of_the_table() -> None:
    N, D = np.array([1e7, 1e8, 1e9]), np.full(3, 1e10)
    table = Table("t", "", {"N": N, "D": D, "C": 6 * N * D * np.array([1.6, 1.3, 1.1])}, np.arange(3), {})
    found = [exact_over_6nd(table, size) for size in (1e6, 1e8, 1e12)]
    assert found == pytest.approx([1.6, 1.3, 1.1], rel=1e-4)
    assert exact_over_6nd(Table("t", "", {"N": N, "D": D, "C": 6 * N * D}, np.arange(3), {}), 1e8) is None


def test_each_family_has_the_best_size_of_its_own_surface() -> None:
    """Noise-free: N* of a family at rho N is the closed form of the surface at rho N."""
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4))
    groups = np.repeat(["a", "b"], len(N))
    N, D = np.tile(N, 2), np.tile(D, 2)
    loss = surface_loss(np.where(groups == "b", 0.4, 1.0) * N, D)
    columns = {"N": N, "D": D, "C": 6 * N * D, "loss": loss, **indicator_columns(groups, "a")}
    table = Table("t", "", columns, np.arange(1, len(N) + 1), {"group": groups})
    result = study(table, SharedExponents(CHINCHILLA, ("b",)))
    found = compare_families(result, cost=result.fitted.cost, bootstrap=0, seed=0, cluster=None, target=1e21)
    assert found is not None
    G = (SURFACE["alpha"] * SURFACE["A"] / (SURFACE["beta"] * SURFACE["B"])) ** (1 / 0.62)
    for family, rho in zip(found.each, (1.0, 0.4), strict=True):
        expected = G * rho ** (-SURFACE["alpha"] / 0.62) * (1e21 / 6) ** (SURFACE["beta"] / 0.62)
        assert family.decision is not None and family.decision.N.value == pytest.approx(expected, rel=1e-4)
        law = log_optimal_n(CHINCHILLA, family.saved.theta[None], family.saved.centre, 1e21)
        assert np.exp(law[0]) == pytest.approx(expected, rel=1e-4)
