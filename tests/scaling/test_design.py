"""Designs: the expected deviations against simulation, the budget, the refusals, and the next cells."""

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from launch.commands.design import design
from launch.scaling.fit.fit import fit_law
from launch.scaling.fit.objective import SQUARES
from launch.scaling.laws.optimum import log_optimal_n
from launch.scaling.laws.powers import CHINCHILLA
from launch.sweep.design.counting import counting_of
from launch.sweep.design.design import PRIOR, Question, judge, propose
from launch.sweep.design.design_add import add_cells
from launch.sweep.design.pending import first_run
from tests.scaling.runs import ledger_row, surface_loss
from trainer.contract.errors import UserError

QUESTION = Question(1e21, PRIOR, 0.003)


def test_every_family_spends_the_budget_and_fixed_ones_say_why_not() -> None:
    designs = {d.name: d for d in propose(1e19, 5e6, 3e8, QUESTION)}
    assert len(designs) == 6
    for d in designs.values():
        assert d.cost == pytest.approx(1e19, rel=1e-3)
    assert "fixed D/N" in designs["fixed D/N ladder"].why_not and designs["fixed D/N ladder"].sd_log_n == np.inf
    assert "fixed D" in designs["fixed D family"].why_not
    assert designs["IsoFLOP grids"].sd_log_n < 0.2


def test_expected_deviations_match_simulated_fits() -> None:
    chosen = next(d for d in propose(1e19, 5e6, 3e8, QUESTION) if d.name == "N x D ladder")
    N, D = np.array([c.N for c in chosen.cells]), np.array([c.D for c in chosen.cells])
    random, found = np.random.default_rng(0), []
    for _ in range(60):
        loss = surface_loss(N, D, PRIOR) * np.exp(0.003 * random.standard_normal(len(N)))
        fitted = fit_law(CHINCHILLA, {"N": N, "D": D}, loss, SQUARES)
        found.append(float(log_optimal_n(CHINCHILLA, fitted.theta[None], fitted.centre, 1e21)[0]))
    assert np.std(found) == pytest.approx(chosen.sd_log_n, rel=0.35)


def test_added_cells_cut_the_variance_more_than_repeating_what_exists() -> None:
    first = propose(1e18, 5e6, 1e8, QUESTION)[0]
    N, D = np.array([c.N for c in first.cells]), np.array([c.D for c in first.cells])
    added = add_cells(N, D, 3, QUESTION, smallest=5e6, largest=1e9, most_expensive=1e19)
    deviations = [added[0].sd_before, *(a.sd_after for a in added)]
    assert deviations == sorted(deviations, reverse=True)
    again = judge("again", [*first.cells, *(a.cell for a in added)], QUESTION)
    assert again.sd_log_n == pytest.approx(added[-1].sd_after, rel=0.05)
    assert all(a.cell.cost <= 1e19 for a in added)
    assert len({(a.cell.N, a.cell.D) for a in added}) == 3


def test_a_budget_that_is_too_small_is_refused() -> None:
    with pytest.raises(UserError, match="larger budget"):
        propose(1e12, 5e6, 3e8, QUESTION)


def test_the_command_writes_a_sweep_file(tmp_path) -> None:
    out = tmp_path / "mine.yaml"
    args = [
        "--flops",
        "1e16",
        "--smallest",
        "500k",
        "--largest",
        "10M",
        "--target",
        "1e18",
        "--out",
        str(out),
        "--json",
    ]
    result = CliRunner().invoke(design, args, catch_exceptions=False)
    answer = json.loads(result.stdout)
    assert answer["prior"]["source"] == "Besiroglu et al. 2024"
    sweep = yaml.safe_load(out.read_text())
    assert sweep["name"] == "mine" and len(sweep["cells"]) == len(answer["designs"][0]["cells"])


def test_cells_are_added_to_a_ledger(tmp_path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    shapes = [(32, 2), (48, 3), (80, 4), (128, 4)]
    rows = [
        ledger_row(f"c{i}{k}", d, n, t, 4.0) for k, (d, n) in enumerate(shapes) for i, t in enumerate([10**6, 10**7])
    ]
    ledger.write_text("".join(json.dumps(r) + "\n" for r in rows))
    args = ["--add", "2", "--table", str(ledger), "--smallest", "50k", "--largest", "5M", "--target", "1e16", "--json"]
    cells = json.loads(CliRunner().invoke(design, args, catch_exceptions=False).stdout)["cells"]
    assert len(cells) == 2 and cells[1]["sd_after"] < cells[0]["sd_before"]


def test_no_cell_beyond_the_budget_is_added() -> None:
    N, D = np.geomspace(1e7, 1e9, 4).repeat(4), np.tile(np.geomspace(1e9, 1e10, 4), 4)
    with pytest.raises(UserError, match=r"0 cost at most 1e12 FLOPs and .* shortest of the table \(1B tokens\), not 3"):
        add_cells(N, D, 3, QUESTION, smallest=5e6, largest=1e9, most_expensive=1e12)


def test_cells_are_added_to_a_sweep_of_models_without_a_size(tmp_path) -> None:
    table, run, out = tmp_path / "t.csv", tmp_path / "run.yaml", tmp_path / "mine.yaml"
    table.write_text("N,D,loss\n" + "".join(f"{n},{d},3\n" for n in (1e5, 2e5, 4e5) for d in (1e6, 2e6, 5e6)))
    model = {"d_model": 64, "n_layers": 2, "n_heads": 2, "context_length": 128}
    batch = {"tokens_per_step": 8192}
    run.write_text(yaml.safe_dump({"name": "r", "model": model, "data": "quickstart", "batch": batch, "tokens": "1M"}))
    out.write_text(f"name: mine\nrun: {run}\ncells:\n- tokens: 1000000\n")
    args = ["--add", "1", "--table", str(table), "--smallest", "100k", "--largest", "1M", "--target", "1e16"]
    said = CliRunner().invoke(design, [*args, "--out", str(out)], catch_exceptions=False).stderr
    assert f"2 cells in {out}: 2 sizes from 101K to" in said


def test_a_written_design_says_what_it_is_and_which_cells_are_too_short(tmp_path) -> None:
    out = tmp_path / "trunks.yaml"
    args = ["--flops", "1.2e12", "--smallest", "12k", "--largest", "100k", "--target", "3e13", "--family", "trunks"]
    result = CliRunner().invoke(
        design, [*args, "--n-convention", "body", "--run", "cell", "--out", str(out)], catch_exceptions=False
    )
    said = result.stderr
    assert "20 cells in" in said and "5 sizes from 13.4K to 101K" in said and "3 to 286 steps of 4096" in said
    assert "9 cells have fewer than 20 steps" in said and f"next: escala sweep run {out}" in said
    longer = [*args[:1], "1.2e14", *args[2:], "--n-convention", "body", "--run", "cell", "--out", str(out)]
    assert "fewer than" not in CliRunner().invoke(design, longer, catch_exceptions=False).stderr


def test_added_cells_are_no_shorter_than_the_runs_that_exist_and_join_their_sweep(tmp_path) -> None:
    ledger, sweep = tmp_path / "ledger.jsonl", tmp_path / "mine.yaml"
    shapes = [(32, 2), (48, 3), (80, 4), (128, 4)]
    rows = [
        ledger_row(f"c{i}{k}", d, n, t, 4.0) for k, (d, n) in enumerate(shapes) for i, t in enumerate([10**6, 10**7])
    ]
    ledger.write_text("".join(json.dumps(r) + "\n" for r in rows))
    sweep.write_text("name: mine\nrun: cell\ncells:\n- model.size: '24576'\n  tokens: 1000000\n")
    args = ["--add", "3", "--table", str(ledger), "--smallest", "12k", "--largest", "800k", "--target", "1e16"]
    CliRunner().invoke(design, [*args, "--out", str(sweep)], catch_exceptions=False)
    values = yaml.safe_load(sweep.read_text())
    assert values["run"] == "cell" and values["cells"][0] == {"model.size": "24576", "tokens": 1000000}
    assert len(values["cells"]) == 4 and all(cell["tokens"] >= 10**6 for cell in values["cells"])


def test_a_prior_that_counts_another_n_is_refused(tmp_path) -> None:
    prior = tmp_path / "fit.json"
    law = {"law": "chinchilla", "params": PRIOR, "certificate": {"status": "certified", "reasons": []}}
    args = ["--flops", "1e16", "--smallest", "500k", "--largest", "10M", "--target", "1e18", "--fit", str(prior)]
    prior.write_text(json.dumps({**law, "conventions": {"N": "body"}}))
    with pytest.raises(UserError, match=r"N counts without embeddings.*--n-convention body"):
        CliRunner().invoke(design, args, catch_exceptions=False)
    assert (
        CliRunner().invoke(design, [*args, "--n-convention", "body", "--json"], catch_exceptions=False).exit_code == 0
    )


def test_a_design_counts_the_head_and_writes_sizes_of_bodies(tmp_path) -> None:
    out = tmp_path / "grid.yaml"
    args = ["--flops", "1e13", "--smallest", "50k", "--largest", "800k", "--target", "1e15", "--family", "grid"]
    result = CliRunner().invoke(design, [*args, "--run", "cell", "--out", str(out), "--json"], catch_exceptions=False)
    answer = json.loads(result.stdout)
    counting = counting_of(first_run(out), "head")
    sizes = sorted(int(cell["model.size"]) for cell in yaml.safe_load(out.read_text())["cells"])
    wanted = sorted(cell["N"] for cell in answer["designs"][0]["cells"])
    assert answer["n_convention"] == "head" and counting.vocab_size > 1
    assert counting.parameters(sizes[0]) == pytest.approx(wanted[0], rel=0.1) and wanted[0] > 1.5 * sizes[0]
    assert counting.parameters(sizes[-1]) == pytest.approx(wanted[-1], rel=0.1)
    said = CliRunner().invoke(design, [*args, "--n-convention", "total"], catch_exceptions=False).stdout
    assert "N counts every distinct parameter" in " ".join(said.split())
