"""The report about a surface, and what the commands print."""

import json

import numpy as np
from click.testing import CliRunner

from launch.commands.fit import fit
from launch.commands.forecast import forecast
from launch.commands.report import report
from tests.scaling.runs import isoflop_grid, ledger_row, surface_loss


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
    ledger.write_text("".join(json.dumps(r) + "\n" for r in surface_rows()))
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
    paths = json.loads(result.output)
    text = (out / "report.md").read_text()
    for title in ("The law", "Allocation", "Hold-out", "Certificate", "Residuals", "Approaches", "Counting",
                  "Loss by position", "Forecasts", "Reproducibility"):  # fmt: skip
        assert f"## {title}" in text
    assert "| big |" in text and "waiting" in text and "Which tokenizer?" in text
    html = (out / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(paths["figures"]) >= 6
    assert "<link" not in html and "<script" not in html and 'src="http' not in html


def test_outliers_are_named_by_row(tmp_path) -> None:
    N, D = isoflop_grid(np.geomspace(1e18, 1e20, 4))
    loss = surface_loss(N, D) * np.exp(0.001 * np.random.default_rng(0).standard_normal(len(N)))
    loss[4] *= 1.3
    table = tmp_path / "t.csv"
    rows = zip(N.tolist(), D.tolist(), loss.tolist(), strict=True)
    table.write_text("N,D,loss\n" + "\n".join(",".join(map(repr, r)) for r in rows) + "\n")
    CliRunner().invoke(report, [str(table), "--out", str(tmp_path / "r")], catch_exceptions=False)
    assert "row 5 lie" in (tmp_path / "r" / "report.md").read_text()


def test_markup_in_names_is_escaped(tmp_path) -> None:
    rows = surface_rows()[:1] + surface_rows()[1:]
    rows[0]["family"] = rows[1]["family"] = "<script>alert(1)</script>"
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("".join(json.dumps(r) + "\n" for r in rows))
    CliRunner().invoke(report, [str(ledger), "--out", str(tmp_path / "r")], catch_exceptions=False)
    html = (tmp_path / "r" / "report.html").read_text()
    assert "<script" not in html and "&lt;script&gt;" in html
