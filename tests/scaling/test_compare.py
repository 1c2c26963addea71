"""`escala compare` on ledgers: what it prints, what it lists as different, and what it refuses with what to do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from launch.commands.compare import compare
from tests.scaling.ladders import ladder_rows, write_ledger
from trainer.config.load import dump, run_from_values
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir

Rows = list[dict[str, Any]]
RUN: dict[str, Any] = {
    "model": {"size": "12k", "vocab_size": 512, "context_length": 64},
    "data": {"name": "x"},
    "batch": {"tokens_per_step": 1024},
    "tokens": 10240,
}


def asked(*words: str | Path) -> Result:
    return CliRunner().invoke(compare, [str(word) for word in words])


def answer(*words: str | Path) -> dict[str, Any]:
    result = asked(*words, "--json")
    assert result.exit_code == 0, result.output + str(result.exception)
    found: dict[str, Any] = json.loads(result.output)
    return found


def refusal(*words: str | Path) -> str:
    error = asked(*words).exception
    assert isinstance(error, UserError) and error.exit_code == 2
    return str(error)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    base = write_ledger(tmp_path / "base", ladder_rows())
    return base, write_ledger(tmp_path / "variant", ladder_rows(1.2, seed=1))


def test_two_ledgers_give_a_multiplier_a_verdict_and_what_it_rests_on(two: tuple[Path, Path]):
    found = answer(*two, "--asymptote", "1.8")
    common = found["multiplier"]["compute"]["common"]
    assert common["low"] < 1.2 < common["high"] and found["verdict"]["word"] == "promote"
    assert len(found["multiplier"]["compute"]["rungs"]) == len(found["rungs"]) == 4
    assert found["verdict"]["false_promotion_rate"] == pytest.approx(0.05)
    assert found["rests_on"]["asymptote"] == 1.8 and found["rests_on"]["paired"]
    assert not found["rests_on"]["rungs_share_seeds"]
    # C grows as tokens times parameters, here nearly as their square: tokens as its root, and seconds with them
    tokens, clock = found["multiplier"]["tokens"]["common"], found["multiplier"]["wall_clock"]["common"]
    assert tokens["value"] == pytest.approx(common["value"] ** 0.5, rel=0.02)
    assert clock == pytest.approx(tokens)


def test_the_text_has_what_differs_first_and_all_that_was_asked(two: tuple[Path, Path]):
    result = asked(*two, "--asymptote", "1.8")
    lines = result.output.splitlines()
    assert "ledgers were compared" in lines[0] and lines.index(next(x for x in lines if "The change" in x)) < 5
    for said in ("PROMOTE: compute multiplier", "Trend:", "In tokens:", "In wall-clock:", "False promotions:",
                 "pinned at 1.8 nats, as that of embedded", "8 pairs of runs share their seed", "90%"):  # fmt: skip
        assert said in " ".join(result.output.split()), said
    assert "Asymptote: free" in asked(*two).output


def test_rungs_that_share_seeds_are_said_to_break_the_rate(tmp_path: Path):
    """Of one width and seed, models begin alike: the scatter over rungs does not know what they share."""
    rows = [ladder_rows(worth, own_seeds=False, seed=k) for k, worth in enumerate((1.0, 1.2))]
    both = [write_ledger(tmp_path / name, one) for name, one in zip("ab", rows, strict=True)]
    assert answer(*both)["rests_on"]["rungs_share_seeds"]
    assert "more often here, where rungs share seeds" in " ".join(asked(*both).output.split())


def test_a_slower_variant_is_worth_less_by_the_clock(tmp_path: Path, two: tuple[Path, Path]):
    rows = [{**row, "seconds": 2 * row["seconds"]} for row in ladder_rows(1.2, seed=1)]
    slower = write_ledger(tmp_path / "slower", rows)
    fast, slow = (answer(two[0], one)["multiplier"]["wall_clock"]["common"] for one in (two[1], slower))
    assert slow["value"] == pytest.approx(fast["value"] / 2) and slow["low"] == pytest.approx(fast["low"] / 2)
    silent = write_ledger(tmp_path / "silent", ladder_rows(1.2, seed=1, seconds=None))
    assert "how long each run took" in answer(two[0], silent)["multiplier"]["wall_clock"]["unknown"]


def test_one_ledger_is_told_apart_by_what_its_sweep_changed_or_by_a_column(tmp_path: Path):
    variant = ladder_rows(1.3, seed=1, settings={"model.mlp": "gelu"}, own_seeds=False)
    rows = ladder_rows(own_seeds=False) + variant
    ledger = write_ledger(tmp_path / "s", rows) / "ledger.jsonl"
    found = answer(ledger)
    assert (found["base"], found["variant"], found["verdict"]["word"]) == ("as it is", "mlp=gelu", "promote")
    assert answer(ledger, "--group-by", "model.mlp")["multiplier"] == found["multiplier"]
    turned = answer(ledger, "--base", "mlp=gelu", "--variant", "as it is")
    assert turned["verdict"]["word"] == "reject"
    seeds = answer(ledger, "--group-by", "seed", "--where", "model.mlp=as it is")
    assert not seeds["rests_on"]["paired"] and seeds["rests_on"]["noise"]["freedom"] == 3, "a rung is worth one"
    assert seeds["verdict"]["word"] == "cannot tell" and seeds["variant"] == "1"


def test_a_sweep_file_stands_for_its_ledger(tmp_path: Path):
    write_ledger(tmp_path / "runs" / "mine", ladder_rows() + ladder_rows(1.3, settings={"model.qk_norm": True}))
    (tmp_path / "mine.yaml").write_text(json.dumps({"run": RUN, "vary": {"model.size": ["12k"]}}))
    found = answer(tmp_path / "mine.yaml", "--runs", tmp_path / "runs")
    assert found["variant"] == "qk_norm=true"
    assert "train it first" in refusal(tmp_path / "mine.yaml", "--runs", tmp_path / "elsewhere")


def written(rows: Rows, root: Path, **changes: Any) -> Rows:
    """Give every run a directory with its configuration."""
    for row in rows:
        run_dir = RunDir(root / row["cell"])
        run_dir.root.mkdir(parents=True)
        run_dir.config.write_text(dump(run_from_values({**RUN, **changes, "seed": row["seed"]}, "test")))
        run_dir.plan.write_text(json.dumps({"precision": "fp32"}))
        row["run_dir"] = str(run_dir.root)
    return rows


def test_an_accidental_second_difference_is_listed_before_anything_else(tmp_path: Path):
    base = write_ledger(tmp_path / "a", written(ladder_rows(), tmp_path / "runs" / "a"))
    model = {**RUN["model"], "qk_norm": True}
    rows = written(ladder_rows(1.2), tmp_path / "runs" / "b", model=model, schedule={"warmup": "5%"})
    variant = write_ledger(tmp_path / "b", [{**row, "data_hash": "other", "git_revision": "abc"} for row in rows])
    result = asked(base, variant, "--change", "model.qk_norm")
    first = " ".join(result.output.split("┏")[0].split())
    assert first.startswith("DIFFERS BESIDE THE CHANGE: data_hash: d -> other; git_revision: null -> abc;")
    assert "schedule.warmup: " in first and "The change: model.qk_norm: false -> true" in first
    found = answer(base, variant, "--change", "model.qk_norm")
    kinds = {one["key"]: one["kind"] for one in found["differences"]["found"]}
    assert kinds == {"model.qk_norm": "change", "schedule.warmup": "beside", "data_hash": "beside",
                     "git_revision": "beside"}  # fmt: skip
    assert not found["rests_on"]["data_order_shared"], "the data are others"


def test_a_single_difference_is_the_change_and_a_moved_sweep_is_still_read(tmp_path: Path):
    base = write_ledger(tmp_path / "a", written(ladder_rows(), tmp_path / "runs"))
    model = {**RUN["model"], "qk_norm": True}
    variant = write_ledger(tmp_path / "b", ladder_rows(1.2))
    written([{**row} for row in ladder_rows(1.2)], variant / "cells", model=model)  # the ledger names "runs/x"
    variant.rename(tmp_path / "moved")
    found = answer(base, tmp_path / "moved")["differences"]
    assert found["change_stated"] and found["configs_compared"]
    assert [(one["key"], one["kind"]) for one in found["found"]] == [("model.qk_norm", "change")]


def test_a_section_that_one_side_lacks_is_one_difference(tmp_path: Path):
    base = write_ledger(tmp_path / "a", written(ladder_rows(), tmp_path / "runs" / "a"))
    optim = {"parametrization": "mup", "base": {"d_model": 8}, "lr": 0.01}
    variant = write_ledger(tmp_path / "b", written(ladder_rows(1.2), tmp_path / "runs" / "b", optim=optim))
    keys = {one["key"]: one["kind"] for one in answer(base, variant, "--change", "optim")["differences"]["found"]}
    assert keys["optim.base"] == keys["optim.parametrization"] == "change"
    assert not [key for key in keys if key.startswith("optim.base.")]


def test_what_a_recipe_sets_comes_with_it(tmp_path: Path):
    base = write_ledger(tmp_path / "a", written(ladder_rows(), tmp_path / "runs" / "a"))
    size = {"D": 1e4, "batch": 1024, "best": 0.3, "interval": [0.2, 0.4], "curvature": 0.01, "runs": 4}
    sizes = [{"N": n, **size} for n in (1e4, 2e4)]
    law = {"value": 0.3, "N_at": 1e4, "D_at": 1e4, "batch_at": 1024, "powers": {}, "intervals": {}, "sizes": sizes}
    optim = {"recipe": {"sweep": "s", "lr": {**law, "value": 0.01}, "weight_decay": law}}
    rows = [{**row, "weight_decay_by": "recipe"} for row in ladder_rows(1.2)]
    variant = write_ledger(tmp_path / "b", written(rows, tmp_path / "runs" / "b", optim=optim))
    found = answer(base, variant, "--change", "optim.recipe")["differences"]["found"]
    kinds = {one["key"]: one["kind"] for one in found}
    assert kinds["optim.recipe"] == "change" and kinds["optim.weight_decay"] == "follows"


def tried(rows: Rows, worse: tuple[float, float]) -> Rows:
    """Add trials at a lower and a higher learning rate, so much worse in log loss than the middle one."""
    found = list(rows)
    for factor, by in zip((0.5, 2.0), worse, strict=True):
        for row in rows:
            trial = {"lr": row["lr"] * factor, "loss": row["loss"] * (1 + by), "cell": f"{row['cell']}-{factor}"}
            found.append({**row, **trial, "settings": {**row["settings"], "optim.lr_factor": factor}})
    return found


def test_bad_input_is_named_with_what_to_do(tmp_path: Path):
    base = write_ledger(tmp_path / "base", ladder_rows())
    variant = write_ledger(tmp_path / "variant", tried(ladder_rows(1.2), (0.01, 0.01)))
    assert "the base is not tuned as the variant is: 1 setting" in refusal(base, variant)
    found = answer(base, variant, "--anyway")
    assert any("not tuned" in note for note in found["rests_on"]["notes"])

    cases: dict[str, tuple[Rows, str]] = {
        "one size": (ladder_rows(sizes=1), "has 1 size .*follows from 3 at least; add rungs"),
        "two sizes": (ladder_rows(sizes=2), "has 2 sizes"),
        "tokenizer": (
            ladder_rows(tokenizer_hash="u"),
            "different tokenizers cannot be compared: base has t, tokenizer u",
        ),
        "vocabulary": (ladder_rows(vocab_size=4096), "different vocabularies"),
        "evaluation set": (ladder_rows(eval_set="c4"), r"evaluated on 'embedded' \(there: c4\).*--eval-set"),
        "no loss in common": ([{**row, "loss": 9.0 + row["loss"]} for row in ladder_rows()], "worse at its best rung"),
        "edge": (tried(ladder_rows(), (0.01, -0.01)), "best learning rate is the last of those tried"),
        "equal compute": (
            ladder_rows() + [{**row, "cell": row["cell"] + "b", "tokens": row["tokens"] * 2} for row in ladder_rows()],
            "no ladder: two of its sizes and lengths cost the same",
        ),
    }
    tuned = write_ledger(tmp_path / "tuned", tried(ladder_rows(), (0.01, 0.01)))
    for name, (rows, message) in cases.items():
        other = write_ledger(tmp_path / name.replace(" ", "-"), rows)
        assert re.search(message, refusal(tuned if name == "edge" else base, other)), name


def test_runs_that_diverged_are_named_unless_a_trial_beside_them_ended(tmp_path: Path):
    rows = ladder_rows(1.2)
    bad = {"status": "diverged", "loss": None, "eval_set": "none", "step": 7}
    base = write_ledger(tmp_path / "base", ladder_rows())
    variant = write_ledger(tmp_path / "variant", [{**rows[0], **bad}, *rows[1:]])
    said = refusal(base, variant)
    assert "1 run of variant did not end" in said and "(diverged at step 7)" in said and "--anyway" in said
    assert any("did not end" in note for note in answer(base, variant, "--anyway")["rests_on"]["notes"])
    none = write_ledger(tmp_path / "none", [{**row, **bad} for row in rows])
    assert "no finished run" in (said := refusal(base, none)) and "8 ended badly: model.size=24576" in said
    hot = {**rows[0], **bad, "cell": "hot", "settings": {**rows[0]["settings"], "optim.lr_factor": 8.0}}
    assert answer(base, write_ledger(tmp_path / "hot", [*rows, hot]))["verdict"]["word"] == "promote"


def test_several_kinds_of_runs_are_not_taken_for_one(tmp_path: Path, two: tuple[Path, Path]):
    rows = ladder_rows() + ladder_rows(1.1, settings={"a.b": 1}) + ladder_rows(1.2, settings={"a.b": 2})
    both = write_ledger(tmp_path / "three", rows)
    assert "name one with --variant: b=1, b=2" in refusal(both)
    assert answer(both, "--variant", "b=2")["variant"] == "b=2"
    assert "holds 3 kinds of runs" in refusal(both, two[1])
    assert "did you mean 'b=1'" in refusal(both, "--variant", "b=11")
    assert "no column or setting 'modle.mlp'" in refusal(both, "--group-by", "modle.mlp")
    assert "has one ladder, and a comparison needs two" in refusal(two[0])
    assert "1 or more" in refusal(*two, "--worth", "0.5")


def test_a_change_that_nobody_made_is_refused(tmp_path: Path, two: tuple[Path, Path]):
    variant = write_ledger(tmp_path / "mlp", ladder_rows(1.2, settings={"model.mlp": "swiglu"}))
    said = refusal(two[0], variant, "--change", "model.mpl")
    assert said == "--change model.mpl: base and variant do not differ in it; they differ in model.mlp"
    assert answer(two[0], variant, "--change", "model.mlp")["verdict"]["word"] == "promote"


def test_the_report_has_the_verdict_and_one_figure(tmp_path: Path, two: tuple[Path, Path]):
    out = tmp_path / "report"
    assert asked(*two, "--out", out).exit_code == 0
    assert [path.name for path in out.glob("*.png")] == ["loss_against_compute.png"]
    text = (out / "report.md").read_text()
    assert "**PROMOTE: compute multiplier" in text and "## What differs" in text and "variant against base" in text


def test_power_says_what_a_ladder_could_see(two: tuple[Path, Path]):
    result = asked(two[0], "--power", "--json")
    visible = json.loads(result.output)["visible"]
    assert list(visible) == ["1", "2", "3", "5", "8"] and sorted(visible.values(), reverse=True) == list(
        visible.values()
    )
    assert "smallest multiplier" in asked(two[0], "--power").output
    assert "--power is of one ladder" in refusal(*two, "--power")
    assert "has no effect with --power" in refusal(two[0], "--power", "--worth", "1.2")


def test_a_ladder_of_three_with_one_seed_does_not_tell_its_noise(tmp_path: Path):
    lone = write_ledger(tmp_path / "lone", ladder_rows(sizes=3, seeds=1))
    assert "do not tell the noise" in refusal(lone, "--power")
    assert asked(lone, "--power", "--asymptote", "1.8").exit_code == 0
