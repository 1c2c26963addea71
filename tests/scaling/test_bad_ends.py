"""Bad news of a table reaches whoever fits it: what ended badly is left out by name, what looks wrong is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from launch.scaling.table.load import from_ledger, load
from tests.conftest import shared_data
from tests.scaling.runs import isoflop_grid, ladder_rows, surface_loss
from trainer.contract.errors import UserError


def test_every_bad_end_of_a_ledger_is_left_out_by_name_and_reason() -> None:
    rows = ladder_rows()
    bad = {"loss": None, "perplexity": None, "eval_set": "none"}
    rows[1] |= {**bad, "status": "diverged", "step": 3, "train_loss": 7.1, "reason": "loss nan after step 3"}
    rows[4] |= {**bad, "status": "failed", "step": 40, "reason": "rank 0 ended with signal SIGKILL"}
    table = from_ledger(rows, where={"eval_set": "embedded"})
    assert len(table) == 4
    diverged, failed = table.warnings[:2]
    assert diverged == f"left out, diverged: {rows[1]['name']} (step 3, last finite loss 7.1, loss nan after step 3)"
    assert failed == f"left out, failed: {rows[4]['name']} (step 40, rank 0 ended with signal SIGKILL)"


def test_a_run_that_diverged_first_and_was_done_later_counts() -> None:
    rows = ladder_rows()
    first = rows[2] | {"status": "diverged", "loss": None, "eval_set": "none", "step": 3}
    table = from_ledger([*rows[:2], first, *rows[2:]])
    assert len(table) == 6 and not [w for w in table.warnings if "left out" in w]
    with pytest.raises(UserError, match="no finished run to fit; left out, diverged"):
        from_ledger([first])


@pytest.mark.parametrize("word", ["diverged", "Failed", "crashed"])
def test_anybodys_status_column_leaves_out_by_name(tmp_path: Path, word: str) -> None:
    lines = [f"run{k},{13000 * 2**k},{10**6 * (k + 1)},{5 - k / 3},finished" for k in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(["name,N,D,loss,status", *lines, f"odd,1e5,1e6,,{word}"]))
    table = load(tmp_path / "t.csv")
    assert len(table) == 5 and f"left out by 'status': odd ({word.lower()})" in table.warnings
    with pytest.raises(UserError, match="no loss column"):
        load(tmp_path / "t.csv", where={"status": word})


def test_a_run_no_better_than_chance_is_named() -> None:
    rows = ladder_rows()
    rows[3]["loss"] = float(np.log(2048)) + 0.01
    assert any("left out, diverged" in w and rows[3]["name"] in w for w in from_ledger(rows).warnings)
    named = [w for w in from_ledger(rows, every_row=True).warnings if "no better than chance" in w]
    assert len(named) == 1 and rows[3]["name"] in named[0] and "ln(2048) is 7.625" in named[0]


def test_a_run_that_never_left_its_initial_values_is_named() -> None:
    rows = ladder_rows()
    rows[3]["loss"] = 0.99 * float(np.log(2048))  # measured: 5.497 where ln(257) is 5.549, with a learning rate of 1e-9
    (named,) = [w for w in from_ledger(rows).warnings if "hardly better than chance" in w]
    assert rows[3]["name"] in named


def test_chance_is_the_unigram_entropy_where_it_is_known() -> None:
    rows = ladder_rows()
    rows[3] |= {"loss": 6.0, "unigram_entropy": 6.05}  # far below ln(2048), and nothing but the frequencies is learned
    (named,) = [w for w in from_ledger(rows).warnings if "hardly better than chance" in w]
    assert rows[3]["name"] in named and "the unigram entropy of the training tokens is 6.05" in named


@pytest.mark.parametrize("off", [1.4, 0.8])
def test_a_run_far_off_its_neighbours_is_named_and_no_other(tmp_path: Path, off: float) -> None:
    N, D = isoflop_grid([1e18, 1e19, 1e20])
    loss = surface_loss(N, D) * np.exp(0.003 * np.random.default_rng(0).standard_normal(len(N)))
    rows = [f"r{k},{n},{d},{value}" for k, (n, d, value) in enumerate(zip(N, D, loss, strict=True))]
    (tmp_path / "good.csv").write_text("\n".join(["name,N,D,loss", *rows]))
    assert not [w for w in load(tmp_path / "good.csv").warnings if "far off" in w]
    loss[9] *= off
    rows[9] = f"r9,{N[9]},{D[9]},{loss[9]}"
    (tmp_path / "bad.csv").write_text("\n".join(["name,N,D,loss", *rows]))
    (warning,) = [w for w in load(tmp_path / "bad.csv").warnings if "far off" in w]
    assert warning.count(" the others)") == 1 and "r9 (loss" in warning


def test_the_outliers_of_the_published_chinchilla_runs_are_named() -> None:
    """Besiroglu et al. 2024 (arXiv 2404.10102) leave out the runs of highest loss of the same 245 as outliers."""
    table = load(shared_data("scaling/epoch_chinchilla_svg_extracted.csv"))
    (warning,) = [w for w in table.warnings if "far off" in w]
    assert [f"row {k} " in warning for k in (1, 2, 3, 4, 5, 6)] == [True] * 4 + [False] * 2
