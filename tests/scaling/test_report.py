"""The report about a surface, and what the commands print."""

import json
import re
import warnings
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from launch.commands.fit import fit
from launch.commands.forecast import forecast
from launch.commands.report import report
from launch.scaling.fit.fit import fit_law
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.questions.saved_fit import saved_fit
from launch.scaling.report import hover, surface_figures
from launch.scaling.report.allocation_figure import allocation, allocations
from launch.scaling.report.axes import log_ticks
from launch.scaling.report.isoflop_figure import isoflop_curves
from launch.scaling.table.load import load
from launch.scaling.table.table import Table
from launch.scaling.trust.bootstrap import row_weights, weighted_bootstrap
from tests.scaling.runs import isoflop_grid, ledger_row, surface_loss
from trainer.contract.errors import UserError


def surface_rows(noise: float = 0.002) -> list[dict]:
    """Ledger rows on an N x D grid; losses follow Hoffmann et al.'s surface."""
    random, rows = np.random.default_rng(0), []
    for k, (d_model, n_layers) in enumerate([(64, 2), (96, 4), (128, 8), (256, 8), (384, 12)]):
        for i, tokens in enumerate([2 * 10**7, 8 * 10**7, 3 * 10**8, 10**9]):
            N = 12 * n_layers * d_model**2 + 2048 * d_model
            loss = float(surface_loss(N, tokens) * np.exp(noise * random.standard_normal()))
            rows.append(ledger_row(f"c{k}-{i}", d_model, n_layers, tokens, loss, seed=0))
    return rows


def test_a_surface_is_reported_with_everything_that_belongs_to_it(tmp_path) -> None:
    ledger, saved, book = tmp_path / "ledger.jsonl", tmp_path / "fit.json", tmp_path / "forecasts.jsonl"
    rows = surface_rows()
    rows[0] |= {"gpu_seconds": 7200.0, "cost": 5.0}
    lost = {**rows[1], "cell": "lost", "status": "failed", "loss": None, "gpu_seconds": 3600.0, "cost": 2.5}
    ledger.write_text("".join(json.dumps(r) + "\n" for r in [*rows, lost]))
    run = CliRunner()
    run.invoke(fit, [str(ledger), "--bootstrap", "50", "--out", str(saved)], catch_exceptions=False)
    run.invoke(
        forecast,
        ["--fit", str(saved), "--params", "100M", "--tokens", "2B", "--name", "big", "--ledger", str(book)],
        catch_exceptions=False,
    )
    out = tmp_path / "report"
    result = run.invoke(
        report, [str(ledger), "--out", str(out), "--forecasts", str(book), "--json"], catch_exceptions=False
    )
    paths = json.loads(result.stdout)
    text = (out / "report.md").read_text()
    assert "| 3 GPU-hours, price 7.50; restarts and runs that ended badly are included |" in text
    assert re.search(r"^\| c0-0-.* \| 2 GPU-hours, price 5.00 \|$", text, flags=re.M)
    for title in ("The law", "Allocation", "Hold-out", "Certificate", "Residuals", "Approaches", "Counting",
                  "Loss by position", "Forecasts", "Runs", "Reproducibility", "How to ask this again"):  # fmt: skip
        assert f"## {title}" in text
    assert "| big |" in text and "waiting" in text and "schedule, batch? | learning rate 0.001; cosine" in text
    names = {Path(f).stem for f in paths["figures"]}
    assert names == {
        "loss_against_compute", "perplexity_against_parameters", "isoflop_curves", "hold_out_error", "loss_by_position",
        "best_parameters", "best_tokens", "predicted_against_measured",
        *(f"residuals_{name}" for name in "NDC"),
        *(f"profiles_{name}" for name in ("E", "A", "B", "alpha", "beta", "N_best")),
    }  # fmt: skip
    assert all(f"({name}.png)" in text for name in names)
    html = (out / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(names)
    assert "<link" not in html and "<script src" not in html and 'src="http' not in html
    assert html.count("<script>") == 1 and "fetch(" not in html and "http" not in html.split("<script>")[1]
    assert "| How to ask" not in text and f"| Command | escala report {ledger}" in text


def test_outliers_are_named_by_row(tmp_path) -> None:
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4))
    loss = surface_loss(N, D) * np.exp(0.001 * np.random.default_rng(0).standard_normal(len(N)))
    loss[4] *= 1.3
    table = tmp_path / "t.csv"
    rows = zip(N.tolist(), D.tolist(), loss.tolist(), strict=True)
    table.write_text("N,D,loss\n" + "\n".join(",".join(map(repr, r)) for r in rows) + "\n")
    CliRunner().invoke(report, [str(table), "--out", str(tmp_path / "r")], catch_exceptions=False)
    assert "Row 5 lies more than 8" in (tmp_path / "r" / "report.md").read_text()


def test_markup_in_names_is_escaped(tmp_path) -> None:
    rows = surface_rows()[:1] + surface_rows()[1:]
    rows[0]["family"] = rows[1]["family"] = "<script>alert(1)</script>"
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("".join(json.dumps(r) + "\n" for r in rows))
    CliRunner().invoke(report, [str(ledger), "--out", str(tmp_path / "r")], catch_exceptions=False)
    html = (tmp_path / "r" / "report.html").read_text()
    assert "<script>alert" not in html and "&lt;script&gt;" in html


def surface_table(tmp_path: Path, N, D) -> Table:
    path = tmp_path / "surface.csv"
    rows = zip(N, D, surface_loss(N, D), strict=True)
    path.write_text("N,D,loss\n" + "".join(f"{n},{d},{loss}\n" for n, d, loss in rows))
    return load(path)


def written(tmp_path: Path, header: str, rows: list[tuple], *args: str) -> tuple[str, set[str]]:
    """Report on a CSV table and return the Markdown and the names of the figures."""
    table, out = tmp_path / "t.csv", tmp_path / "r"
    table.write_text(header + "\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
    CliRunner().invoke(report, [str(table), "--out", str(out), *args], catch_exceptions=False)
    return (out / "report.md").read_text(), {path.stem for path in out.glob("*.png")}


def test_a_fixed_ratio_draws_no_allocation_and_says_why(tmp_path) -> None:
    N = np.geomspace(1e7, 1e9, 8)
    rows = list(zip(N, 20 * N, surface_loss(N, 20 * N), strict=True))
    text, figures = written(tmp_path, "N,D,loss", rows)
    assert "fixed D/N" in text and "no allocation N*, D*" in text
    assert "## Allocation" not in text and "isoflop_curves" not in figures and "profiles_N_best" not in figures
    assert {"perplexity_against_parameters", "loss_against_compute", "hold_out_error"} <= figures
    assert {f"residuals_{name}" for name in "NDC"} <= figures


def test_a_table_of_sizes_alone_is_reported(tmp_path) -> None:
    N = np.geomspace(1e7, 1e9, 8)
    text, figures = written(tmp_path, "N,loss", list(zip(N, 1.7 + 406 / N**0.34, strict=True)))
    assert "| How is compute counted? | not recorded in the table |" in text
    assert "loss_against_compute" not in figures and "residuals_N" in figures and "residuals_C" not in figures


def test_runs_at_no_common_budget_are_interpolated_between_the_lengths_of_a_size(tmp_path) -> None:
    N, D = (grid.ravel() for grid in np.meshgrid([1e7, 3e7, 1e8, 3e8], [1e8, 3.1e8, 1e9, 3.3e9]))
    curves = isoflop_curves(surface_table(tmp_path, N, D))
    assert len(curves) == 5 and not any(c.measured for c in curves)
    for curve in curves:
        assert len(curve.N) >= 3
        assert curve.loss == pytest.approx(surface_loss(curve.N, curve.flops / 6 / curve.N), rel=0.01)
        for n in curve.N:  # no budget beyond what a size was trained for
            spent = 6 * n * D[np.isclose(N, n)]
            assert spent.min() * 0.999 <= curve.flops <= spent.max() * 1.001


def test_strewn_runs_are_no_budget(tmp_path) -> None:
    """Runs whose neighbours are close in compute, but which span decades, belong to no IsoFLOP curve."""
    random = np.random.default_rng(0)
    N, D = np.geomspace(1e7, 1e9, 2000), np.exp(random.uniform(19, 23, 2000))
    assert isoflop_curves(surface_table(tmp_path, N, D)) == []


def test_numbers_on_logarithmic_axes_are_few_round_and_inside() -> None:
    for low, high in ((5.0, 300.0), (1e18, 1e24), (28.0, 61.0), (46e3, 340e3), (3.1, 3.4), (1e-5, 1e20)):
        ticks = log_ticks(low, high)
        assert 2 <= len(ticks) <= 8
        assert all(low <= t <= high for t in ticks)
        assert all(float(f"{t:.3g}") == pytest.approx(t) for t in ticks)


def test_a_refused_surface_gives_no_best_size_and_draws_none(tmp_path) -> None:
    """Losses that no size changes identify a law of D alone: nothing about N* may be said or drawn."""
    N, D = (grid.ravel() for grid in np.meshgrid([46e6, 80e6, 140e6, 240e6], [1e9, 3e9, 9e9, 27e9]))
    noise = np.exp(0.004 * np.random.default_rng(1).standard_normal(len(N)))
    loss = (1.0 + 40 / D**0.18) * noise
    text, _ = written(tmp_path, "N,D,loss", list(zip(N, D, loss, strict=True)))
    assert "refused.**" in text and "No best size is given for any budget" in text
    assert "The law's frontier is not drawn" in text and "No optimum is marked" in text
    assert "At ten times the largest budget" not in text and "The best size grows" not in text
    assert "| FLOPs | N* |" not in text


def test_three_runs_are_reported_and_two_refused(tmp_path) -> None:
    N = np.geomspace(1e7, 1e8, 3)
    rows = list(zip(N, [10**9] * 3, surface_loss(N, 1e9), strict=True))
    text, _ = written(tmp_path, "N,D,loss", rows)
    assert "3 cells" in text and "leave no degree of freedom" in text and "nan" not in text
    with pytest.raises(UserError, match="2 runs; a law needs 3"):
        written(tmp_path, "N,D,loss", rows[:2])


def test_equal_losses_have_an_axis(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text, _ = written(tmp_path, "N,D,loss", [(n, 10**9, 3.0) for n in np.geomspace(1e7, 1e9, 8)])
    assert "OUTSIDE" not in text


def test_several_families_under_one_law_are_said(tmp_path) -> None:
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4))
    names = np.where(np.arange(len(N)) % 2, "a<b", "plain|pipe")
    text, _ = written(tmp_path, "N,D,loss,family", list(zip(N, D, surface_loss(N, D), names, strict=True)))
    assert "One law for 2 families (a&lt;b, plain|pipe)" in text and "a&lt;b, plain\\|pipe |" in text


def test_a_single_size_is_a_ladder_of_lengths(tmp_path) -> None:
    D = np.geomspace(1e8, 1e10, 8)
    text, figures = written(tmp_path, "N,D,loss", list(zip([10**7] * 8, D, surface_loss(1e7, D), strict=True)))
    assert "one width" in text and "perplexity_against_tokens" in figures and "isoflop_curves" not in figures


def test_each_run_is_listed_with_its_residual_and_said_over_its_point(tmp_path) -> None:
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4))
    loss = surface_loss(N, D) * np.exp(0.001 * np.random.default_rng(0).standard_normal(len(N)))
    rows = [(f"run<{k}>", n, d, v) for k, (n, d, v) in enumerate(zip(N, D, loss, strict=True))]
    text, _ = written(tmp_path, "name,N,D,loss", rows)
    assert len(re.findall(r"^\| run&lt;\d+> \| \d+ \|", text, re.M)) == len(rows)
    assert "| N* ~ C^a: a |" in text
    page = (tmp_path / "r" / "report.html").read_text()
    charts = re.findall(r'data-points="([^"]*)">\s*<img src="[^"]*" alt="([^"]*)"', page)
    (found,) = [points for points, alt in charts if alt.startswith("The loss that the law gives each run")]
    measured = json.loads(unescape(found))
    assert len(measured) == len(rows) and all(0 < x < 1 and 0 < y < 1 for x, y, _ in measured)
    by_name = {point[2].split(":")[0]: point for point in measured}
    order = np.argsort(loss)
    across = [by_name[f"run<{k}>"][0] for k in order]
    assert across == sorted(across)  # larger losses lie further to the right
    assert f"loss {loss[3]:.4f}, law " in by_name["run<3>"][2]


def test_the_law_is_drawn_at_the_largest_length(tmp_path) -> None:
    table = surface_table(tmp_path, *isoflop_grid(np.geomspace(1e18, 1e20, 4)))
    axes = Figure().add_subplot()
    fitted = fit_law(CHINCHILLA, table.columns, table.loss)
    surface_figures.perplexity(axes, table, fitted)
    lines = [line for line in axes.get_lines() if str(line.get_label()).startswith("law at")]
    lowest = np.min([np.interp(table.N, line.get_xdata(), line.get_ydata()) for line in lines], axis=0)
    assert (np.exp(table.loss) > lowest * 0.999).all()


def test_best_sizes_are_drawn_by_every_law_and_method(tmp_path) -> None:
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4))
    loss = surface_loss(N, D) * np.exp(0.001 * np.random.default_rng(0).standard_normal(len(N)))
    table = Table("t", "", {"N": N, "D": D, "C": 6 * N * D, "loss": loss}, np.arange(1, len(N) + 1), {})
    fitted = weighted_bootstrap(fit_law(CHINCHILLA, table.columns, loss), row_weights(len(N), 100, 0))
    laws = ("chinchilla", "outer", "over-training")
    found = allocations(table, fitted, saved_fit(fitted, "certified", (), table), laws)
    assert [name for name, _ in found.others] == ["outer", "over-training"]
    assert [f.method for f in found.frontiers] == ["isoflop-parabola", "isoflop-akima", "envelope"]
    assert found.band is not None and ((found.band[:, 0] < found.best) & (found.best < found.band[:, 1])).all()
    assert found.flops[-1] == pytest.approx(1e21) and np.all(np.diff(found.best) > 0)
    axes = Figure().add_subplot()
    allocation(axes, found, "D")
    labels = axes.get_legend_handles_labels()[1]
    assert {"chinchilla", "outer", "over-training", "isoflop-akima", "95 %"} <= set(labels)
    line = next(line for line in axes.get_lines() if line.get_label() == "chinchilla")
    assert line.get_ydata() == pytest.approx(found.flops / (6 * found.best))


def test_points_are_told_where_they_are_drawn() -> None:
    figure = Figure(figsize=(4, 2))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.25, 0.5, 0.5, 0.5))
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 1)
    hover.label(axes, np.array([0, 5, 10.0]), np.array([0, 0.5, 7.0]), ["a", "b", "beyond"])
    assert hover.points(axes) == [(0.25, 0.5, "a"), (0.5, 0.25, "b")]
