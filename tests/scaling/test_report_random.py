"""A report of any valid table is written, or refused in one sentence: never a chart that cannot be drawn."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launch.scaling.report import analysis, ladder, write
from launch.scaling.table.load import load
from trainer.contract.errors import UserError

ORDINARY = "name,N,D,loss\na,13000,72000,4.60\nb,27000,72000,4.27\nc,54000,72000,4.31\nd,100000,72000,4.29\n"
SMALL_PICTURES, FEW = 20, 40


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(write.__globals__, "DPI", SMALL_PICTURES)
    monkeypatch.setattr(analysis, "REPLICATES", FEW)
    monkeypatch.setattr(ladder, "BOOTSTRAP", FEW)


def report(text: str) -> str | None:
    """Write a report of a table; return why it was refused, or None where every file of it is there."""
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of overflows that are cut off before they are drawn
        (Path(place) / "t.csv").write_text(text)
        try:
            paths = write(load(Path(place) / "t.csv"), Path(place) / "report")
        except UserError as error:
            return str(error)
        assert paths.html.stat().st_size > 0 and all(figure.stat().st_size > 0 for figure in paths.figures)
        return None


@st.composite
def tables(draw: st.DrawFn) -> str:
    """Draw a table of a few runs: any sizes and lengths, losses by a law, by chance, or all alike."""
    number = draw(st.integers(3, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = np.geomspace(1e4, 10 ** draw(st.floats(4.01, 9)), draw(st.integers(1, number))).round()
    lengths = np.geomspace(1e5, 10 ** draw(st.floats(5.01, 11)), draw(st.integers(1, 3))).round()
    N, D = random.choice(sizes, number), random.choice(lengths, number)
    if draw(st.booleans()):  # a ladder: every size once, of one length
        N, D = np.geomspace(1e4, 10 ** draw(st.floats(4.5, 9)), number).round(), np.full(number, lengths[0])
    losses = {
        "law": 1.7 + 400 / N**0.34 + 410 / D**0.28,
        "chance": random.uniform(0.1, 12, number),
        "alike": np.full(number, 3.0),
        "rising": np.sort(random.uniform(0.01, 20, number)),
    }
    loss = losses[draw(st.sampled_from(sorted(losses)))] * np.exp(
        draw(st.sampled_from([0, 0.02])) * random.random(number)
    )
    columns = {"N": N, "D": D, "loss": loss}
    columns.pop(draw(st.sampled_from(["N", "D", "none", "none"])), None)
    lines = [",".join(["name", *columns])]
    return "\n".join([*lines, *(",".join([f"r{i}", *(str(c[i]) for c in columns.values())]) for i in range(number))])


def test_an_ordinary_ladder_has_a_report() -> None:
    assert report(ORDINARY) is None


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(tables())
def test_any_table_has_a_report_or_a_reason(text: str) -> None:
    refusal = report(text)
    assert refusal is None or "\n" not in refusal
