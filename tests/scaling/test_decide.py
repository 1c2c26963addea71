"""The next run: closed forms, budgets in other units, configurations that the schema accepts, forecasts and scores."""

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from launch.cli import main
from launch.commands.fit import fit
from launch.commands.forecast import forecast
from launch.commands.optimal import optimal
from launch.scaling.questions.next_run import decide, flops_for_loss
from launch.scaling.questions.saved_fit import load_fit
from tests.scaling.runs import SURFACE, isoflop_grid, ladder_rows, surface_loss
from trainer.config.model import parse_model
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError


@pytest.fixture
def noisy_fit(tmp_path):
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4))
    loss = surface_loss(N, D) * np.exp(0.002 * np.random.default_rng(0).standard_normal(len(N)))
    table = tmp_path / "t.csv"
    rows = zip(N.tolist(), D.tolist(), loss.tolist(), strict=True)
    table.write_text("N,D,loss\n" + "\n".join(",".join(map(repr, r)) for r in rows) + "\n")
    path = tmp_path / "fit.json"
    args = [str(table), "--bootstrap", "200", "--json", "--out", str(path)]
    CliRunner().invoke(fit, args, catch_exceptions=False)
    return path


def closed_form(flops: float, p: dict[str, float]) -> tuple[float, float]:
    G = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"]))
    N = G * (flops / 6) ** (p["beta"] / (p["alpha"] + p["beta"]))
    return N, flops / 6 / N


@pytest.mark.parametrize("flops", [1e21, 5.76e23, 1e26])
def test_the_closed_form_is_met_from_parameters_alone(tmp_path, flops) -> None:
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"law": "chinchilla", "params": SURFACE}))
    decision = decide(load_fit(path), flops)
    N, D = closed_form(flops, SURFACE)
    assert decision.N.value == pytest.approx(N, rel=1e-9)
    assert decision.tokens_per_parameter.value == pytest.approx(D / N, rel=1e-9)
    assert decision.loss.value == pytest.approx(surface_loss(N, D), rel=1e-9)


def test_published_allocations(tmp_path) -> None:
    path = tmp_path / "published.json"
    params = {"E": 1.81686, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}  # Besiroglu et al. 2024
    path.write_text(json.dumps({"law": "chinchilla", "params": params}))
    decision = decide(load_fit(path), 5.76e23)
    assert decision.N.value == pytest.approx(7.2249e10, rel=1e-4)
    assert decision.D.value == pytest.approx(1.3287e12, rel=1e-4)
    assert decide(load_fit(path), 1e26).tokens_per_parameter.value == pytest.approx(16.148, rel=1e-4)


def test_optimal_finds_a_model_of_another_mixer(noisy_fit) -> None:
    arguments = ["--fit", str(noisy_fit), "--flops", "1e21", "--json"]
    plain, other = (
        json.loads(CliRunner().invoke(optimal, [*arguments, *more], catch_exceptions=False).stdout)
        for more in ([], ["--mixer", "gated_conv"])
    )
    assert other["run"]["model"]["mixer"] == {"gated_conv": {"kernel": 4}} and "n_heads" not in other["model"]
    assert "mixer" not in plain["run"]["model"]
    assert other["model"]["N"] == pytest.approx(plain["model"]["N"], rel=0.05)
    assert parse_model({**other["run"]["model"], "vocab_size": 32_768}).kind == "gated_conv"


def test_optimal_prints_every_number_with_its_interval(noisy_fit) -> None:
    result = CliRunner().invoke(optimal, ["--fit", str(noisy_fit), "--flops", "1e21", "--json"], catch_exceptions=False)
    answer = json.loads(result.output)
    N, _ = closed_form(1e21, SURFACE)
    for name in ("N", "D", "tokens_per_parameter", "loss"):
        low, high = answer["intervals"][name]
        assert low < answer[name] < high
    assert answer["intervals"]["N"][0] < N < answer["intervals"]["N"][1]
    assert 0 <= answer["wasted_share"] < 0.1
    assert answer["model"]["N"] == pytest.approx(answer["N"], rel=0.1)


def test_the_run_is_accepted_by_the_schema(noisy_fit, tmp_path) -> None:
    out = tmp_path / "next.yaml"
    args = ["--fit", str(noisy_fit), "--flops", "1e19", "--run-yaml", str(out)]
    CliRunner().invoke(optimal, args, catch_exceptions=False)
    run = yaml.safe_load(out.read_text())
    config = RunConfig.model_validate({**run, "data": {}})
    assert config.tokens % run["batch"]["tokens_per_step"] == 0 and config.model.n_layers > 1


def test_budgets_in_other_units(noisy_fit) -> None:
    saved = load_fit(noisy_fit)
    assert decide(saved, flops_for_loss(saved, 2.4)).loss.value == pytest.approx(2.4, abs=1e-6)
    run = CliRunner().invoke(optimal, ["--fit", str(noisy_fit), "--gpus", "8", "--days", "1", "--json"])
    assert json.loads(run.output)["flops"] == pytest.approx(8 * 86400 * 0.4 * 989e12)
    with pytest.raises(UserError, match="no budget reaches"):
        flops_for_loss(saved, 1.0)
    served = decide(saved, 1e21, served_tokens=1e12)
    assert served.N.value < decide(saved, 1e21).N.value
    assert 6 * served.N.value * served.D.value + 2 * served.N.value * 1e12 == pytest.approx(1e21, rel=1e-6)


def test_a_utilisation_that_the_planner_does_not_expect_is_told(noisy_fit) -> None:
    def warnings(mfu: str) -> list[str]:
        args = ["--fit", str(noisy_fit), "--gpus", "8", "--days", "1", "--gpu", "h100", "--json", "--mfu", mfu]
        told: list[str] = json.loads(CliRunner().invoke(optimal, args, catch_exceptions=False).output)["warnings"]
        return [warning for warning in told if "planner" in warning]

    (far,) = warnings("0.9")
    assert "counts on 90% of the peak" in far and "8 x H100-SXM: try --mfu 0." in far
    assert not warnings(far.split("--mfu ")[1].split(",")[0]), "what it advises is what it expects"


@pytest.mark.parametrize(
    "args",
    [
        *(["--flops", value] for value in ("0", "-1", "nan", "inf", "1e3", "1e40")),
        *(["--loss", value] for value in ("-1", "nan", "inf")),
        *(["--gpus", "8", "--days", value] for value in ("0", "nan")),
        ["--gpus", "0", "--days", "1"],
        ["--gpus", "8"],
        ["--flops", "1e21", "--days", "1"],
        ["--flops", "1e21", "--loss", "2.2"],
        ["--flops", "1e21", "--served-tokens", "nan"],
        ["--flops", "1e21", "--served-tokens", "1e30"],
        ["--flops", "1e21", "--tokens-per-step", "0"],
        ["--flops", "1e21", "--vocab-size", "0"],
        ["--flops", "1e21", "--run-yaml", "nowhere/x.yaml"],
    ],
)
def test_a_budget_that_is_none_is_a_user_error(noisy_fit, tmp_path, monkeypatch, capsys, args) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["optimal", "--fit", str(noisy_fit), "--json", *args])
    printed = capsys.readouterr()
    assert stop.value.code == 2 and not printed.out and "rror: " in printed.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "not the output"),
        ("", "not the output"),
        ('{"law": "chinchilla"}', "KeyError.*params"),
        (json.dumps({"law": "chinchilla", "params": {**SURFACE, "alpha": -0.3}}), "positive numbers.*alpha = -0.3"),
        (json.dumps({"law": "chinchilla", "params": {**SURFACE, "E": None}}), "not the output"),
    ],
)
def test_a_file_that_is_no_fit_is_a_user_error(tmp_path, text, message) -> None:
    path = tmp_path / "fit.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_fit(path)
    with pytest.raises(UserError, match="is a directory"):
        load_fit(tmp_path)


def test_a_forecast_from_parameters_alone_is_valid_json(tmp_path) -> None:
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"law": "chinchilla", "params": SURFACE}))
    args = ["--fit", str(path), "--params", "1B", "--tokens", "20B", "--ledger", str(tmp_path / "f.jsonl")]
    made = CliRunner().invoke(forecast, [*args, "--json"], catch_exceptions=False)
    assert json.loads(made.stdout)["times_largest"] is None and "NaN" not in made.stdout
    assert CliRunner().invoke(forecast, [*args, "--params", "0"]).exit_code == 2
    said = CliRunner().invoke(forecast, args, catch_exceptions=False)
    assert "unknown times the largest run" in said.stdout


def test_a_refused_fit_cannot_be_acted_on(tmp_path) -> None:
    path = tmp_path / "fit.json"
    path.write_text(
        json.dumps(
            {"law": "chinchilla", "params": SURFACE, "certificate": {"status": "refused", "reasons": ["fixed D/N: 20"]}}
        )
    )
    with pytest.raises(UserError, match="refused: fixed D/N"):
        load_fit(path)


def test_a_forecast_is_written_before_the_run_and_scored_after(tmp_path) -> None:
    rows = ladder_rows(num=8, noise=0.002)
    ledger, later, book = (tmp_path / n for n in ("ledger.jsonl", "later.jsonl", "forecasts.jsonl"))
    ledger.write_text("".join(json.dumps(r) + "\n" for r in rows[:6]))
    later.write_text("".join(json.dumps(r) + "\n" for r in rows))
    saved = tmp_path / "fit.json"
    run = CliRunner()
    run.invoke(fit, [str(ledger), "--law", "power-N-floor", "--out", str(saved)], catch_exceptions=False)
    big = rows[7]
    n = str(big["params_body"] + big["vocab_size"] * big["d_model"])
    made = run.invoke(
        forecast, ["--fit", str(saved), "--params", n, "--ledger", str(book), "--json"], catch_exceptions=False
    )
    prediction = json.loads(made.output)
    assert len(prediction["data_sha256"]) == 64 and prediction["time"].endswith("+00:00")
    waiting = run.invoke(forecast, ["score", str(ledger), "--ledger", str(book), "--json"], catch_exceptions=False)
    assert json.loads(waiting.output) == {"scores": [], "warnings": [], "waiting": [prediction["id"]]}
    scored = run.invoke(forecast, ["score", str(later), "--ledger", str(book), "--json"], catch_exceptions=False)
    (result,) = json.loads(scored.output)["scores"]
    assert result["measured"] == big["loss"] and result["inside"] is True and abs(result["error"]) < 0.02


def test_a_model_far_from_the_best_size_is_a_warning(tmp_path) -> None:
    """For tiny runs the default vocabulary alone has more parameters than N*."""
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"law": "chinchilla", "params": SURFACE}))
    run = CliRunner()
    small = run.invoke(optimal, ["--fit", str(path), "--flops", "1e13"], catch_exceptions=False)
    assert "no model of the ladder is near N*" in small.stderr
    answer = json.loads(run.invoke(optimal, ["--fit", str(path), "--flops", "1e13", "--json"]).stdout)
    assert any("no model of the ladder is near N*" in warning for warning in answer["warnings"])
    large = run.invoke(optimal, ["--fit", str(path), "--flops", "1e21"], catch_exceptions=False)
    assert "near N*" not in large.stderr
