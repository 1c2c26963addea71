"""What residuals say against a fit, and that they say nothing against a law that holds."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.coverage import judge
from benchmarks.simulated_sweeps import CASES, TRUTH, best_size, chinchilla, simulate
from launch.commands.fit import fit
from launch.commands.optimal import optimal
from launch.scaling.fit.fit import fit_law
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.laws.registry import FIXED
from launch.scaling.table.clusters import clusters
from launch.scaling.table.load import load
from launch.scaling.table.table import Table
from launch.scaling.trust.residual_tests import doubts
from launch.scaling.trust.study import study
from tests.conftest import shared_data


def found(table: Table, law: str = "chinchilla", cluster: str | None = None) -> dict[tuple[str, str], float]:
    fitted = fit_law(FIXED[law], table.columns, table.loss)
    return {(d.kind, d.by): d.size for d in doubts(fitted, table, cluster)}


@pytest.mark.parametrize("case", ["grid-16", "isoflop-28", "grid-60", "scattered-240"])
def test_a_law_that_holds_is_hardly_ever_doubted(case) -> None:
    doubted = [found(simulate(CASES[case], seed)) for seed in range(10)]
    assert sum(map(bool, doubted)) <= 1


def test_errors_that_runs_of_one_size_share_are_seen_and_sized() -> None:
    for seed in range(5):
        table = simulate(CASES["grid-60, sizes share errors"], seed)
        size = found(table)["shared-error", "N"]
        assert 0.0005 < size < 0.006  # the truth is 0.003 of which the fit takes a part
        assert ("shared-error", "N") not in found(table, cluster="N")


def test_few_groups_are_said_to_give_narrow_intervals() -> None:
    table = simulate(CASES["grid-16, sizes share errors, --cluster N"], 0)
    few = study(table, CHINCHILLA, bootstrap=100, cluster=clusters(table, "N")).table.warnings
    assert any("few groups: intervals from 4 drawn groups" in w for w in few)
    assert not study(table, CHINCHILLA, bootstrap=100).table.warnings
    assert not study(table, CHINCHILLA, cluster=clusters(table, "N")).table.warnings  # nothing is drawn


def test_groups_answer_for_shared_errors_only_where_they_are_drawn(tmp_path) -> None:
    table, path = simulate(CASES["grid-60, sizes share errors"], 0), tmp_path / "t.csv"
    rows = zip(table.N.tolist(), table.D.tolist(), table.loss.tolist(), strict=True)
    path.write_text("N,D,loss\n" + "".join(f"{n!r},{d!r},{loss!r}\n" for n, d, loss in rows))
    for bootstrap, expected in (("100", False), ("0", True)):
        args = [str(path), "--law", "chinchilla", "--cluster", "N", "--bootstrap", bootstrap, "--json"]
        told = json.loads(CliRunner().invoke(fit, args, catch_exceptions=False).stdout)["doubts"]
        assert any(d["kind"] == "shared-error" for d in told) is expected


def test_a_trunk_is_named_before_its_size() -> None:
    table = simulate(CASES["grid-60, sizes share errors"], 0)
    trunks = replace(table, labels={"trunk": np.array([f"trunk of {n:.3g}" for n in table.N])})
    assert [by for _, by in found(trunks) if by in ("trunk", "N")] == ["trunk"]
    for drawn in ("trunk", "N"):  # the same groups by either name: their errors are in the bootstrap already
        assert not {by for _, by in found(trunks, cluster=drawn)} & {"trunk", "N"}


def test_a_law_that_the_runs_bend_away_from_is_seen_until_the_right_one_is_fitted() -> None:
    table = simulate(CASES["grid-60, another true law"], 0)
    assert ("bend", "N and D") in found(table)
    assert not found(table, "outer")


def test_nothing_is_doubted_without_noise() -> None:
    N, D = CASES["grid-60"].places
    table = Table("t", "", {"N": N, "D": D, "C": 6 * N * D, "loss": chinchilla(N, D)}, np.arange(len(N)), {})
    assert not doubts(fit_law(CHINCHILLA, table.columns, table.loss), table)


def test_published_runs_speak_against_published_laws() -> None:
    olmo = load(shared_data("scaling/olmo_ladder_final.csv"), {"N": "N_nonembed", "D": "tokens", "loss": "ce_c4_en"})
    assert ("bend", "N and D") in found(olmo) and ("bend", "N and D") not in found(olmo, "outer")
    assert found(olmo, "outer")["shared-error", "N"] == pytest.approx(0.0019, rel=0.05)  # of 10 sizes, p = 3e-5


def test_doubts_are_printed_and_go_on_to_the_next_run(tmp_path) -> None:
    table = simulate(CASES["grid-60, sizes share errors"], 0)
    path, saved = tmp_path / "t.csv", tmp_path / "fit.json"
    rows = zip(table.N.tolist(), table.D.tolist(), table.loss.tolist(), strict=True)
    path.write_text("N,D,loss\n" + "\n".join(",".join(map(repr, r)) for r in rows) + "\n")
    args = [str(path), "--law", "chinchilla", "--bootstrap", "100"]
    printed = CliRunner().invoke(fit, [*args, "--out", str(saved)], catch_exceptions=False).output
    assert "doubt: runs of one N share an error" in " ".join(printed.split())
    assert json.loads(saved.read_text())["doubts"][0]["by"] == "N"
    answer = CliRunner().invoke(optimal, ["--fit", str(saved), "--flops", "1e21", "--json"], catch_exceptions=False)
    assert any("--cluster N" in w for w in json.loads(answer.stdout)["warnings"])


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """A small part of `python -m benchmarks.coverage`: the whole is in docs/benchmarks/scaling.md."""
    held = [judge(CASES["grid-16"], seed)[1] for seed in range(12)]
    for name in ("alpha", "beta (profile)"):
        assert sum(h[name] for h in held) >= 10, name
    assert [judge(CASES["grid-8"], seed)[0] for seed in range(5)] == ["refused"] * 5


def test_the_true_optimum_of_the_simulations_is_the_closed_form() -> None:
    a = TRUTH["beta"] / (TRUTH["alpha"] + TRUTH["beta"])
    ratio = TRUTH["alpha"] * TRUTH["A"] / (TRUTH["beta"] * TRUTH["B"])
    expected = ratio ** (a / TRUTH["beta"]) * (5.76e23 / 6) ** a
    assert best_size(chinchilla, 5.76e23) == pytest.approx(expected, rel=1e-4)
