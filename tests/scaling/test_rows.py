"""What a row is: ends of runs, checkpoints, trials, diverged runs; and units that a table gets wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from launch.cli import escala
from launch.commands.fit import fit
from launch.commands.tables import drop_highest
from launch.scaling.laws.identify import distinct
from launch.scaling.laws.powers import CHINCHILLA
from launch.scaling.other.isoflop import MINIMUM, fit_frontier
from launch.scaling.other.tuning import fit_tuning
from launch.scaling.table.load import load
from launch.scaling.trust.holdout import hold_out, robust_mean
from launch.scaling.trust.study import study
from tests.conftest import shared_data
from tests.scaling.runs import isoflop_grid, surface_loss
from trainer.contract.errors import UserError

EPOCH = {"E": 1.8172, "A": 477.8, "B": 2143.4, "alpha": 0.3473, "beta": 0.3672}


def write(tmp_path: Path, header: str, rows) -> Path:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def grid(sizes: int = 5, lengths: int = 5):
    N = np.geomspace(2e7, 2e9, sizes).repeat(lengths)
    D = np.tile(np.geomspace(1e9, 8e10, lengths), sizes)
    return N, D, surface_loss(N, D, EPOCH)


def curves(num: int = 3):
    """Return name, step, total steps, N, D and loss of runs with four checkpoints each."""
    for k in range(num):
        for step in (100, 200, 300, 400):
            yield f"run{k}", step, 400, 3e7 * 3**k, step * 4e6, 4.2 - k / 3 - step / 1000


def test_the_last_checkpoint_of_each_run_is_kept(tmp_path) -> None:
    path = write(tmp_path, "name,step,total_steps,N,D,loss", curves())
    table = load(path)
    assert table.row.tolist() == [4, 8, 12]
    assert any("left out: 9 checkpoints before the last one of 3 runs" in w for w in table.warnings)
    assert len(load(path, rows_are="all")) == 12


def test_a_run_that_stopped_early_is_left_out_by_name(tmp_path) -> None:
    rows = [row for row in curves() if row[:2] != ("run1", 400)]
    table = load(write(tmp_path, "name,step,total_steps,N,D,loss", rows))
    assert len(table) == 2 and any("run1 (step 300 of 400)" in w for w in table.warnings)
    early = [row for row in curves() if row[1] < 400]
    with pytest.raises(UserError, match="no run that reached its last step"):
        load(write(tmp_path, "name,step,total_steps,N,D,loss", early))


@pytest.mark.parametrize(("header", "pick"), [("name,N,D,loss", (0, 3, 4, 5)), ("step,N,D,loss", (1, 3, 4, 5))])
def test_rows_that_may_be_checkpoints_are_refused(tmp_path, header, pick) -> None:
    path = write(tmp_path, header, [[row[i] for i in pick] for row in curves()])
    with pytest.raises(UserError, match="--rows last"):
        load(path)
    assert len(load(path, rows_are="last")) == 3 and len(load(path, rows_are="all")) == 12


def test_a_column_that_names_sizes_does_not_name_runs(tmp_path) -> None:
    rows = [(f"{row[0]}", *row[3:]) for row in curves()]
    assert len(load(write(tmp_path, "model,N,D,loss", rows))) == 12
    families = [("a", 1e8, 2e9, 3.0), ("a", 2e8, 2e9, 2.9), ("b", 1e8, 2e9, 3.1), ("b", 2e8, 4e9, 2.8)]
    assert len(load(write(tmp_path, "name,N,D,loss", families))) == 4


def test_the_best_trial_of_each_cell_is_kept_with_its_seeds(tmp_path) -> None:
    N, D, loss = grid(3, 3)
    rows = [
        (n, d, lr, seed, value * (1 + 0.02 * abs(lr - best) + 1e-4 * seed))
        for k, (n, d, value) in enumerate(zip(N, D, loss, strict=True))
        for best in [2 if k else 1]
        for lr in (1, 2, 3)
        for seed in (0, 1)
    ]
    path = write(tmp_path, "N,D,lr,seed,loss", rows)
    table = load(path)
    assert len(table) == 18 and table.columns["lr"].tolist() == [1, 1] + [2] * 16
    (said,) = [w for w in table.warnings if "trials of another learning rate" in w]
    assert "36 trials" in said and "in 9 cells; in 1 of them" in said
    assert len(load(path, trials_of="lr")) == len(load(path, rows_are="all")) == 54


def test_a_learning_rate_that_changes_with_size_alone_is_no_trial(tmp_path) -> None:
    N, D, loss = grid(3, 3)
    rows = zip(N, D, 10 / N**0.5, loss, strict=True)
    assert len(load(write(tmp_path, "N,D,lr,loss", rows))) == 9


def test_diverged_runs_are_left_out_and_do_not_ruin_the_hold_out(tmp_path) -> None:
    N, D = isoflop_grid([1e18, 1e19, 1e20, 1e21], p=EPOCH)
    loss = surface_loss(N, D, EPOCH) * np.exp(0.003 * np.random.default_rng(0).standard_normal(len(N)))
    loss[[9, 17, 26]] = 8.1, 10.2, 7.5
    path = write(tmp_path, "N,D,loss", zip(N, D, loss, strict=True))
    table = load(path)
    (said,) = [w for w in table.warnings if "left out, diverged" in w]
    assert len(table) == len(N) - 3 and all(f"row {k} (loss" in said for k in (10, 18, 27))
    assert hold_out(table)[0].mean < 0.01
    assert len(load(path, rows_are="all")) == len(N)


def test_runs_that_overfit_repeated_tokens_are_kept(tmp_path) -> None:
    N, D, loss = grid()
    rows = [[n, d, d, value] for n, d, value in zip(N, D, loss, strict=True)]
    rows[7][2:] = rows[7][1] / 100, 6.5
    assert len(load(write(tmp_path, "N,D,U,loss", rows))) == 25


@pytest.mark.parametrize(
    ("n", "d", "message"),
    [
        (1e-3, 1, r"N is in thousands: --map N=\"N\*1e3\""),
        (1e-6, 1, "N lies between .* perhaps millions.*1e6"),
        (1, 1e-6, "D lies between .* perhaps millions.*1e6"),
        (1, 1e-9, "D lies between .* perhaps billions.*1e9"),
    ],
)
def test_a_wrong_unit_is_named(tmp_path, n, d, message) -> None:
    N, D, loss = grid()
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, "N,D,loss", zip(N * n, D * d, loss, strict=True)))


def test_swapped_columns_are_named_and_a_user_who_insists_is_believed(tmp_path) -> None:
    N, D, loss = grid()
    path = write(tmp_path, "D,N,loss", zip(N, D, loss, strict=True))
    with pytest.raises(UserError, match="N and D are swapped: --map N=D,D=N"):
        load(path)
    assert load(path, {"N": "N*1", "D": "D"}).N.tolist() == D.tolist()
    assert load(path, {"N": "D", "D": "N"}).N.tolist() == N.tolist()


@pytest.mark.parametrize("mark", [",", " ", "'", "\u2019", "\u00a0", "\u202f"])
def test_thousands_are_marked_in_many_ways(tmp_path, mark) -> None:
    rows = [(f'"1{mark}200{mark}000{mark}000"', "2.5b", 3.0), ('"900000000"', "20m", 4.0)]
    table = load(write(tmp_path, "N,D,loss", rows))
    assert table.N.tolist() == [1.2e9, 9e8] and table.D.tolist() == [2.5e9, 2e7]


def test_marks_of_thousands_that_do_not_agree_are_no_number(tmp_path) -> None:
    with pytest.raises(UserError, match="N is missing"):
        load(write(tmp_path, "N,D,loss", [('"1 200\'000"', 1e9, 3.0)]))


def test_a_table_of_runs_from_wandb_is_read(tmp_path) -> None:
    rows = [(f"r{k}", s, 1e8 * (k + 1), 2e9, 3 - k / 10) for k, s in enumerate(("finished", "crashed", "running"))]
    table = load(write(tmp_path, "Name,State,model.num_params,train/tokens,eval/loss", rows))
    assert len(table) == 1 and "r1 (crashed), r2 (running)" in table.warnings[0]


def test_a_panel_from_wandb_is_refused_with_its_runs(tmp_path) -> None:
    header = "Step," + ",".join(f"{r} - val/loss{end}" for r in ("a", "b") for end in ("", "__MIN", "__MAX"))
    rows = [(100, 4.0, 4.0, 4.0, 3.9, 3.9, 3.9), (200, 3.5, 3.5, 3.5, "", "", "")]
    with pytest.raises(UserError, match=r"panel of W&B: curves of 'val/loss' for 2 runs \(last values: a 3.5, b 3.9\)"):
        load(write(tmp_path, header, rows))


def test_a_chain_of_near_values_is_not_one_value() -> None:
    assert distinct(np.geomspace(1e9, 2e9, 2000), 400) == 400
    assert distinct(np.array([1e9, 1.0002e9, 2e9]), 5) == 2


def test_two_losses_of_nearly_one_size_make_no_minimum(tmp_path) -> None:
    N, D = isoflop_grid([1e18, 1e19, 1e20], p=EPOCH)
    loss = surface_loss(N, D, EPOCH)
    rows = [*zip(N, D, loss, strict=True), (N[1] * (1 + 1e-7), D[1], loss[1] - 0.02)]
    table = load(write(tmp_path, "N,D,loss", rows))
    for method in MINIMUM:
        lowest = [o.loss for o in fit_frontier(table, method).optima]
        assert len(lowest) == 3 and min(lowest) > 0.98 * loss.min()


def test_an_empty_batch_column_does_not_hide_the_cells(tmp_path) -> None:
    N, D, loss = grid(3, 3)
    rows = [
        (n, d, lr / n**0.5, 512 if k < 2 else "", value + 0.1 * np.log(lr / 5) ** 2)
        for k, (n, d, value) in enumerate(zip(N, D, loss, strict=True))
        for lr in (1, 2.5, 5, 10, 25)
    ]
    found = fit_tuning(load(write(tmp_path, "N,D,lr,batch,loss", rows), trials_of="lr"), "lr")
    assert found.num_cells == 9 and found.values["p"] == pytest.approx(-0.5, abs=0.02)


@pytest.mark.parametrize(
    ("name", "rows", "error"),
    [
        ("checkpoints", 6, ""),
        ("lr_swept", 20, ""),
        ("diverged", 36, ""),
        ("suffixes", 30, ""),
        ("thousands_space", 30, ""),
        ("utf16", 30, ""),
        ("wandb_runs_export", 30, ""),
        ("n_in_thousands", 0, "N is in thousands"),
        ("d_in_millions", 0, "perhaps millions"),
        ("swapped_n_d", 0, "swapped"),
        ("wandb_panel_export", 0, "d512 .*d768 .*d1024"),
    ],
)
def test_the_case_files_are_read_for_what_they_are(name, rows, error) -> None:
    path = shared_data(f"cases/scaling/{name}.csv")
    if error:
        with pytest.raises(UserError, match=error):
            load(path)
    else:
        assert len(load(path)) == rows


def test_trials_of_a_setting_are_no_seeds() -> None:
    """All trials together look like a seed noise of 1.87 %; that of the best of each cell is 0.1 %."""
    table = load(shared_data("cases/scaling/lr_swept.csv"))
    found = study(table, CHINCHILLA)
    assert found.fitted is not None and found.replicates is None
    assert np.std(found.fitted.residuals) < 0.0015 and found.fitted.values["beta"] == pytest.approx(0.367, abs=0.005)


def test_no_minimum_of_the_case_of_close_sizes_lies_below_its_runs() -> None:
    table = load(shared_data("cases/scaling/close_sizes.csv"))
    for method in MINIMUM:
        optima = fit_frontier(table, method).optima
        assert len(optima) >= 3 and min(o.loss for o in optima) > 0.97 * table.loss.min()


@pytest.mark.parametrize("command", ["fit", "fit --law isoflop-akima", "report", "forecast score"])
def test_every_command_names_the_runs_that_diverged(tmp_path, monkeypatch, command) -> None:
    path = shared_data("cases/scaling/diverged.csv")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forecasts.jsonl").write_text("")
    monkeypatch.setenv("COLUMNS", "1000")
    result = CliRunner().invoke(escala, [*command.split(), str(path)], catch_exceptions=False)
    said = " ".join(result.output.split())
    assert result.exit_code == 0
    for row, loss in ((37, "8.1"), (38, "10.2"), (39, "10.6")):
        assert f"row {row} (loss {loss}" in said


def test_one_wild_run_does_not_rank_the_laws() -> None:
    assert robust_mean(np.array([0.01, 0.02, 0.01, 3.0, 0.02])) < 0.05
    assert robust_mean(np.array([0.01, 0.02, 0.03])) == pytest.approx(0.02)


def test_what_is_left_out_is_said_in_the_answer_and_the_report(tmp_path) -> None:
    N, D, loss = grid()
    loss[11] = 9.0
    rows = [(n, d, value, "ab"[k % 2]) for k, (n, d, value) in enumerate(zip(N, D, loss, strict=True))]
    path = write(tmp_path, "N,D,loss,kind", rows)
    runs = drop_highest(load(path, where={"kind": "b"}), 1)
    filtered, dropped, odd = runs.without
    assert filtered == "all but 12 of 25 rows, by --where kind=b"
    assert dropped == "row 2, by --drop-highest-loss 1" and "diverged: row 12" in odd
    result = CliRunner().invoke(fit, [str(path), "--where", "kind=b", "--law", "power-N", "--json"])
    assert json.loads(result.stdout)["left_out"] == [filtered, odd]
