"""`escala sweep tune` without training: its cells, what of the ledger counts, the loop to the recipe, and its use."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from launch.scaling.tune.knobs import BATCH, DECAY, FACTOR
from launch.sweep.cells.config import SweepConfig
from launch.sweep.cells.knobs import Start
from launch.sweep.cells.tuning import cells_at, sizes_of, tried, untuned
from launch.sweep.execute import opened, report, tune
from launch.sweep.execute.decide import Decision, Limits, Then
from launch.sweep.execute.story import recipe_lines
from launch.sweep.execute.tune import TuneWish, tune_sweep
from launch.sweep.ledger import ledger
from tests.launch.test_sweep_cells import RUN
from tests.scaling.runs import ledger_row
from trainer.config.base import parse_section
from trainer.config.load import dump, load_run, run_from_values
from trainer.config.recipe import Recipe
from trainer.contract.errors import EndedBadlyError, UserError
from trainer.contract.exit_codes import EXIT_FAILED
from trainer.contract.plain_json import to_json
from trainer.plan.identity import result_hash
from trainer.plan.learning_rate import lr_source, recipe_source

RUNGS = [{"model.size": "12k", "tokens": 10240}, {"model.size": "25k", "tokens": 20480},
         {"model.size": "50k", "tokens": 40960}, {"model.size": "100k", "tokens": 81920}]  # fmt: skip
OCTAVES = {"12k": 1.0, "25k": 0.7, "50k": 0.4, "100k": 0.1}  # of the best rate above the rule


def sweep(**changes: Any) -> SweepConfig:
    return SweepConfig.model_validate({"name": "s", "run": RUN, "rungs": RUNGS, **changes})


def test_sizes_are_those_of_the_base_without_seeds_and_rates() -> None:
    assert sizes_of(sweep(seeds=2)).settings == tuple(RUNGS)
    swept = sizes_of(sweep(vary={"optim.lr_factor": [0.5, 1, 2]}, changes=[{}, {"model.mlp": "gelu"}]))
    assert swept.settings == tuple(RUNGS) and swept.others == ("mlp=gelu",)


def start(settings: dict[str, Any] | None = None) -> Start:
    own = {"lr": 1.0, "batch": 1024, "weight_decay": 0.1}
    return Start(settings or RUNGS[0], own, batch_unit=64, rate_power=0.5, most_batch=2048)  # type: ignore[arg-type]


def octaves_up(x: float) -> dict[str, Any]:
    return start().settings_at({"lr": start().value("lr", x)})


def test_cells_of_a_tuning_are_marked_and_are_the_runs_that_their_settings_say() -> None:
    cell = cells_at(sweep(), [octaves_up(1.5)], gpu=False)[0]
    assert cell.purpose == "tuning" and cell.id.startswith("tune-size=12k-tokens=10240-lr_factor=2.828-")
    assert cell.config.name == cell.id and cell.config.optim.lr_factor == 2.828


def ended(cell: Any, **columns: Any) -> dict[str, Any]:
    row = ledger_row(cell.id, 32, 2, 10240, 3.0, settings=cell.settings, purpose="tuning", eval_set="held_out")
    return {**row, "cell": cell.id, **columns}


def test_only_rows_of_the_very_runs_count() -> None:
    settings = [octaves_up(x) for x in (-1.5, 0.0, 1.5)]
    low, middle, high = cells_at(sweep(), settings, gpu=False)
    rows = [ended(low), ended(middle, status="failed", loss=None), ended(high, status="diverged", loss=None)]
    found = [trial for trial, _ in tried(sweep(), start(), "lr", {}, rows, gpu=False)]
    assert [t.x for t in found] == pytest.approx([-1.5, 1.5], abs=1e-3), "one that failed tells nothing of its rate"
    assert math.isinf(found[1].log_loss)
    longer = sweep(run={**RUN, "batch": {"tokens_per_step": 2048}})
    assert tried(longer, start(), "lr", {}, rows, gpu=False) == []


def test_a_batch_is_one_that_ranks_share_and_takes_the_rate_of_its_size() -> None:
    at = start()
    assert [at.value("batch", x) for x in (-6, -4, -1, 0, 1)] == [64, 64, 512, 1024, 2048]
    odd = Start(RUNGS[0], {"lr": 1.0, "batch": 11 * 64, "weight_decay": 0.1}, 64, 0.5, 2048)
    assert [odd.value("batch", x) for x in (-3, -2, -1)] == [64, 3 * 64, 6 * 64]
    assert at.settings_at({"lr": 2.0, "batch": 256}) == {**RUNGS[0], BATCH: 256, FACTOR: 1.0}
    assert at.settings_at({"lr": 2.0, "batch": 256, "weight_decay": 0.2})[DECAY] == 0.2
    bracket = at.bracket("batch")
    assert bracket.is_possible(-4) and not bracket.is_possible(-5)
    assert bracket.is_possible(1) and not bracket.is_possible(2), "fewer than 16 steps"


@pytest.fixture
def wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TuneWish:
    """A sweep file whose runs end at once, with losses of a known surface."""
    prepared = SimpleNamespace(tokens=lambda split: 10**6, vocab_size=512, name="x")
    monkeypatch.setattr(opened, "ensure_prepared", lambda data: prepared)
    monkeypatch.setattr(tune, "need_rank_packages", lambda: None)
    monkeypatch.setattr(tune, "_train", train)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"run": RUN, "rungs": RUNGS}))
    return TuneWish(tmp_path / "s.yaml", (), tmp_path / "runs", budget=3.0)


def train(bench: Any, step: Any, wish: TuneWish, cluster: Any, console: Console, most: int = 9) -> None:
    """End the runs of a step with losses of a surface: rate, batch and weight decay each have a best value."""
    for cell, (number, _) in zip(bench.cells(step)[:most], step.runs, strict=False):
        place = step.stage.entries[number].place
        own, size, settings = bench.starts[place].own, bench.sizes[place], cell.settings
        batch, decay = settings.get(BATCH, own["batch"]), settings.get(DECAY, own["weight_decay"])
        up = OCTAVES[settings["model.size"]] + 0.5 * math.log2(batch / own["batch"])
        off = math.log2(settings[FACTOR]) - up, math.log2(batch / own["batch"]) + 0.8, math.log2(decay / 0.1) - 0.6
        loss = 3.0 * math.exp(0.01 * off[0] ** 2 + 0.005 * off[1] ** 2 + 0.005 * off[2] ** 2)
        row = ended(cell, loss=loss, lr=size.own * settings[FACTOR], knob=cell.knob)
        row.update(params_body=int(size.N), tokens=int(size.D), flops_exact=size.flops, tokens_per_step=batch)
        path = bench.opened.directory / "ledger.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(to_json(row) + "\n")


def test_a_tuning_writes_a_recipe_that_a_sweep_follows(wish: TuneWish, tmp_path: Path) -> None:
    tuned = tune_sweep(wish, Console(quiet=True))
    assert tuned is not None and tuned.recipe.lr.curvature.startswith("log-linear is not rejected")
    assert [size.runs for size in tuned.recipe.lr.sizes] == pytest.approx([4, 4, 4], abs=1)
    assert tuned.recipe.share <= 3.0 and tuned.recipe.flops > 0
    named = opened.open_sweep(wish.config, (f"optim.recipe={tuned.path}",), wish.runs)
    plain = opened.open_sweep(wish.config, (), wish.runs)
    for with_recipe, without in zip(named.cells, plain.cells, strict=True):
        octaves = math.log2(with_recipe.plan.lr / without.plan.lr)
        assert octaves == pytest.approx(OCTAVES[without.cell.settings["model.size"]], abs=0.2)
    assert recipe_lines(plain.cells) == [] and len(recipe_lines(named.cells)) == 4
    assert tuned.recipe.lr.formula in recipe_lines(named.cells)[0]
    assert tune_sweep(wish, Console(quiet=True)) == tuned, "all is done: nothing is trained again"


ALL = ("lr", "batch", "weight_decay")


def test_all_knobs_are_tuned_one_after_the_other_and_a_sweep_follows_each(wish: TuneWish) -> None:
    sure = replace(wish, knobs=ALL, budget=30.0)
    tuned = tune_sweep(sure, Console(quiet=True))
    assert tuned is not None and not tuned.no_law and not tuned.stopped
    recipe, first = tuned.recipe, next(iter(tuned.recipe.lr.sizes))
    assert recipe.batch is not None and recipe.weight_decay is not None
    assert recipe.lr.powers["batch"] == 0.5 and "batch" not in recipe.lr.intervals
    assert [size.best for size in recipe.batch.sizes] == pytest.approx([1024 * 2**-0.8] * 3, rel=0.1)
    assert [size.best for size in recipe.weight_decay.sizes] == pytest.approx([0.1 * 2**0.6] * 3, rel=0.15)
    assert first.batch == recipe.batch.sizes[0].best, "the rate is that of the best batch"
    rows = list(ledger.read(wish.runs / "s" / "ledger.jsonl"))
    assert {row["knob"] for row in rows} == set(ALL) and {row["purpose"] for row in rows} == {"tuning"}
    order = [row["knob"] for row in rows]
    assert order == sorted(order, key=ALL.index), "no knob is begun before the one before it is done"
    named = opened.open_sweep(wish.config, (f"optim.recipe={tuned.path}",), wish.runs)
    for one in named.cells:
        config = one.cell.config
        assert config.batch.tokens_per_step in (576, 640) and config.optim.weight_decay == pytest.approx(0.152, rel=0.2)
        assert (recipe_source(config.optim, "batch"), lr_source(config.optim)) == ("recipe", "recipe")
    line = recipe_lines(named.cells)[0]
    assert "; batch 5" in line or "; batch 6" in line
    assert recipe.batch.formula in line and recipe.weight_decay.formula in line
    assert tune_sweep(sure, Console(quiet=True)) == tuned, "all is done: nothing is trained again"


def test_knobs_share_one_budget_and_one_that_it_leaves_out_has_no_law(wish: TuneWish) -> None:
    alone = tune_sweep(wish, Console(quiet=True))
    assert alone is not None
    tuned = tune_sweep(replace(wish, knobs=ALL, budget=alone.recipe.share * 1.001), Console(quiet=True))
    assert tuned is not None and tuned.recipe == alone.recipe, "what is tuned already is not trained again"
    assert [line.split(":")[0] for line in tuned.no_law] == ["no law of batch", "no law of weight decay"]
    assert tuned.stopped[0].startswith("batch: the budget of")


def test_an_interrupted_tuning_makes_the_same_runs(wish: TuneWish, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_then_stop(*arguments: Any) -> None:
        train(*arguments, most=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "_train", one_then_stop)
    wish = replace(wish, knobs=("lr", "batch"), budget=9.0)
    for _ in range(16):  # into the tuning of the batch
        with pytest.raises(KeyboardInterrupt):
            tune_sweep(wish, Console(quiet=True))
    assert "batch" in {row["knob"] for row in ledger.read(wish.runs / "s" / "ledger.jsonl")}
    monkeypatch.setattr(tune, "_train", train)
    cut = tune_sweep(wish, Console(quiet=True))
    path = wish.runs / "s" / "ledger.jsonl"
    cells = {row["cell"] for row in ledger.read(path)}
    path.unlink()
    assert tune_sweep(wish, Console(quiet=True)) == cut
    assert {row["cell"] for row in ledger.read(path)} == cells


def test_a_run_that_fails_ends_the_tuning(wish: TuneWish, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise EndedBadlyError("1 of 3 cells failed", 1)

    monkeypatch.setattr(tune, "_train", fails)
    with pytest.raises(EndedBadlyError, match="failed"):
        tune_sweep(wish, Console(quiet=True))


def test_a_budget_that_is_too_small_says_which_size_it_left_out(wish: TuneWish) -> None:
    small = TuneWish(wish.config, (), wish.runs, budget=0.01)
    with pytest.raises(UserError, match=r"0 of 3 sizes are tuned.*no run has ended.*--budget"):
        tune_sweep(small, Console(quiet=True))


def test_what_a_diverged_run_did_not_use_stays_in_the_budget(wish: TuneWish) -> None:
    bench = tune._bench(wish, None)
    train(bench, bench.next_step(), wish, None, Console(quiet=True))
    path = wish.runs / "s" / "ledger.jsonl"
    rows = list(ledger.read(path))
    rows[-1].update(status="diverged", loss=None, eval_set="none", flops_exact=0.1 * bench.sizes[0].flops)
    path.write_text("".join(to_json(row) + "\n" for row in rows))
    (size, *_) = bench.stages()[0].sizes
    assert len(size.tried) == 3 and size.spent == pytest.approx(2.1 * size.flops)


def test_one_size_and_unknown_sizes_are_refused(wish: TuneWish) -> None:
    wish.config.write_text(yaml.safe_dump({"run": RUN, "rungs": RUNGS[:1]}))
    with pytest.raises(UserError, match="has one size"):
        tune_sweep(wish, Console(quiet=True))
    wish.config.write_text(yaml.safe_dump({"run": RUN, "rungs": RUNGS}))
    with pytest.raises(UserError, match=r"--sizes 7: sweep 's' has sizes 1 to 4"):
        tune_sweep(TuneWish(wish.config, (), wish.runs, sizes=(1, 7)), Console(quiet=True))


@pytest.mark.parametrize(
    ("knobs", "changes", "message"),
    [
        (("batch",), {}, "batch is tuned at the best learning rate: add lr"),
        (("lr", "batch"), {"tokens": None, "steps": 40}, "length of the runs is given in steps"),
        (("lr", "weight_decay"), {"optim": {"weight_decay": 0}}, "it is 0, and so is each multiple"),
        (("lr", "weight_decay"), {"optim": {"name": "muon", "muon_weight_decay": 0.2}}, "keeps the matrices' own"),
    ],
)
def test_knobs_that_cannot_be_tuned_are_refused(
    wish: TuneWish, knobs: Any, changes: dict[str, Any], message: str
) -> None:
    rungs = [{key: value for key, value in rung.items() if key != "tokens"} for rung in RUNGS]
    run = {key: value for key, value in {"tokens": 10240, **RUN, **changes}.items() if value is not None}
    wish.config.write_text(yaml.safe_dump({"run": run, "rungs": rungs}))
    with pytest.raises(UserError, match=message):
        tune_sweep(replace(wish, knobs=knobs), Console(quiet=True))


def recipe(**changes: Any) -> dict[str, Any]:
    sizes = [{"N": n, "D": 20 * n, "batch": 1024, "best": 0.01, "interval": [0.008, 0.012], "curvature": 0.01,
              "runs": 4} for n in (10_000, 40_000)]  # fmt: skip
    law = {"value": 0.01, "N_at": 20_000, "D_at": 400_000, "batch_at": 1024, "powers": {"N": -0.5},
           "intervals": {"N": [-0.6, -0.4]}, "sizes": sizes}  # fmt: skip
    return {"sweep": "s", "lr": law, **changes}


def test_a_run_holds_what_its_recipe_says_and_is_the_run_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe()))
    run = run_from_values({**RUN, "tokens": 300_000, "optim": {"recipe": str(path)}}, "t")
    plain = untuned(
        sweep(run={**RUN, "tokens": 300_000, "optim": {"recipe": str(path)}}, rungs=(), cells=[{"seed": 0}])
    )
    assert cells_at(plain, [{"seed": 0}], gpu=False)[0].config.optim.recipe is None
    body = 13_408
    rate = 0.01 * (body / 20_000) ** -0.5
    by_hand = run_from_values({**RUN, "tokens": 300_000, "optim": {"lr": rate}}, "t")
    assert result_hash(run, gpu=False) == result_hash(by_hand, gpu=False)
    (tmp_path / "config.yaml").write_text(dump(run))
    path.unlink()
    assert load_run(tmp_path / "config.yaml").optim.recipe == run.optim.recipe, "its configuration is complete"


def test_a_recipe_is_refused_far_outside_its_fit_unless_asked_for() -> None:
    far = {**RUN, "tokens": 2_000, "optim": {"recipe": recipe()}}
    with pytest.raises(
        UserError, match=r"fitted to 2e\+05 to 8e\+05 tokens.*98 times|97.7 times outside.*recipe_reach=98"
    ):
        result_hash(run_from_values(far, "t"), gpu=False)
    asked = {**far, "optim": {"recipe": recipe(), "recipe_reach": 100}}
    assert result_hash(run_from_values(asked, "t"), gpu=False)


def law(value: float, **powers: float) -> dict[str, Any]:
    return {**recipe()["lr"], "value": value, "powers": powers, "intervals": {}}


@given(st.integers(8, 5000))
def test_the_batch_of_a_recipe_is_near_its_law_and_can_be_shared(sequences: int) -> None:
    found = parse_section(Recipe, recipe(batch=law(64 * sequences)), "a recipe").batch_at(
        {"N": 20_000, "D": 4e5}, 10, 64
    )
    assert found is not None and abs(found / (64 * sequences) - 1) <= 1 / 16
    assert found // 64 % 2 ** max(sequences.bit_length() - 4, 0) == 0


def test_batch_and_weight_decay_of_a_recipe_are_the_run_by_hand(tmp_path: Path) -> None:
    given = recipe(batch=law(2000, D=0.5), weight_decay=law(0.2, N=-0.1))
    run = run_from_values({**RUN, "tokens": 300_000, "optim": {"recipe": given}}, "t")
    batch, decay = 2000 * (300_000 / 400_000) ** 0.5, 0.2 * (13_408 / 20_000) ** -0.1
    assert run.batch.tokens_per_step == 28 * 64 and abs(run.batch.tokens_per_step / batch - 1) < 0.07
    assert run.optim.weight_decay == pytest.approx(decay, rel=1e-5)
    rate = 0.01 * (13_408 / 20_000) ** -0.5
    values = {**RUN, "batch": {"tokens_per_step": 28 * 64}, "tokens": 300_000}
    by_hand = run_from_values({**values, "optim": {"lr": rate, "weight_decay": run.optim.weight_decay}}, "t")
    assert result_hash(run, gpu=False) == result_hash(by_hand, gpu=False)
    (tmp_path / "config.yaml").write_text(dump(run))
    assert load_run(tmp_path / "config.yaml") == run, "read again it comes to the same"
    with pytest.raises(UserError, match=r"batch of optim.recipe was fitted to .* tokens, and 1e\+07"):
        run_from_values({**RUN, "tokens": 10_000_000, "optim": {"recipe": given}}, "t")
    with pytest.raises(UserError, match="depends on the tokens of the run"):
        steps = {key: value for key, value in RUN.items() if key != "tokens"}
        run_from_values({**steps, "steps": 100, "optim": {"recipe": given}}, "t")


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"lr": 0.1}, "recipe and lr both say"),
        ({"lr_horizon": {"tokens": 100}}, "recipe and lr_horizon both say"),
        ({"parametrization": "mup", "base": {"d_model": 32}}, "tuned with parametrization standard, not mup"),
    ],
)
def test_a_recipe_beside_another_rate_is_refused(optim: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_from_values({**RUN, "optim": {"recipe": recipe(), **optim}}, "t")


def test_what_failed_is_started_again_by_tuning_whoever_had_the_sweep_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "recorded_cluster", lambda directory: "slurm")
    monkeypatch.setattr(report, "_bad_ends", lambda *_: {"failed": {"a": "no space left"}})
    decided, sweep_there = Decision((), Then.FINISH), SimpleNamespace(directory=tmp_path / "runs" / "s", cells=[1, 2])
    text, code = report.ending(decided, Limits(queued=False), sweep_there, tmp_path / "s.yaml", again="tune")  # type: ignore[arg-type]
    assert code == EXIT_FAILED and "1 of 2 cells failed (a: no space left)" in text and "escala sweep tune" in text
