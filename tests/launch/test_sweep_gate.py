"""Rungs, seeds and gates of a sweep: which cells there are, and which follow once the ledger has the first stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch.sweep.cells import gate
from launch.sweep.cells.cells import cells_of
from launch.sweep.cells.config import SweepConfig, load_sweep
from launch.sweep.cells.gate import Passage
from launch.sweep.cells.settings import settings_of
from launch.sweep.execute import story
from launch.sweep.execute.story import Result, Wish
from tests.conftest import ROOT
from tests.launch.test_sweep_cells import RUN
from tests.scaling.ladders import ladder_rows
from trainer.config.load import run_from_values
from trainer.contract.errors import UserError
from trainer.plan.identity import result_hash

SMALL = [{"model.size": "12k", "tokens": 10240}, {"model.size": "25k", "tokens": 20480},
         {"model.size": "50k", "tokens": 40960}]  # fmt: skip
LARGE = [{"model.size": "100k", "tokens": 81920}]
GELU, NORM = {"model.mlp": "gelu"}, {"model.qk_norm": True}


def sweep(**changes: Any) -> SweepConfig:
    run = {key: value for key, value in RUN.items() if key != "tokens"} | {"tokens": 10240}
    return SweepConfig.model_validate({"name": "s", "run": run, "rungs": SMALL, **changes})


def gated(**changes: Any) -> SweepConfig:
    return sweep(seeds=2, changes=[{}, GELU, NORM], gate={"rungs": LARGE, **changes})


def test_rungs_and_seeds_are_trained_with_every_change():
    found = settings_of(sweep(seeds=2, changes=[{}, GELU]))
    assert len(found) == 3 * 2 * 2
    assert found[0] == {**SMALL[0], "seed": 0} and found[1] == {**SMALL[0], "seed": 1}
    assert found[-1] == {**SMALL[2], "seed": 5, **GELU}, "no two rungs share a seed, but the changes of one do"
    assert settings_of(sweep()) == SMALL, "one seed is the run's own"


def test_seeds_of_initial_values_and_of_the_order_are_crossed():
    found = settings_of(sweep(rungs=SMALL[:1], seeds={"init": 2, "order": 3}))
    assert [(s["seed"], s["data.seed"]) for s in found] == [(i, o) for i in (0, 1) for o in (0, 1, 2)]
    names = [cell.id for cell in cells_of(sweep(rungs=SMALL[:1], seeds={"init": 2, "order": 2}))]
    assert "seed=0-data.seed=1-" in names[1], "two keys that end alike are told apart"


def test_two_places_for_one_setting_are_refused():
    with pytest.raises(UserError, match="seed is in 'vary' and in 'seeds'"):
        settings_of(sweep(vary={"seed": [0, 1]}, seeds=2))
    with pytest.raises(UserError, match="tokens is in 'vary' and in 'rungs'"):
        settings_of(sweep(vary={"tokens": [1, 2]}))


def test_a_seed_of_the_order_that_is_the_runs_own_is_the_same_run():
    runs = [run_from_values({**RUN, "seed": 3, "data": {"name": "x", **data}}, "t") for data in
            ({}, {"seed": 3}, {"seed": 4})]  # fmt: skip
    hashes = [result_hash(run, gpu=False) for run in runs]
    assert hashes[0] == hashes[1] != hashes[2]
    assert [run.order_seed for run in runs] == [3, 3, 4]


def write(path: Path, config: SweepConfig, worth: dict[str, float], skip: int = 0, **columns: Any) -> Path:
    """Write the ledger of a first stage: each change as good as the base with so many times its compute."""
    rows = []
    for change in ({}, GELU, NORM):
        for row in ladder_rows(worth[json.dumps(change)], sizes=3, settings=change, seed=len(rows)):
            rung = SMALL[[r["params_body"] for r in ladder_rows(sizes=3, seeds=1)].index(row["params_body"])]
            settings = {**rung, "seed": row["seed"], **change}
            rows.append({**row, "settings": settings, "eval_set": "held_out"})
    named = {json.dumps(cell.settings, sort_keys=True): cell.id for cell in cells_of(config)}
    for row in rows:
        row["cell"] = row["name"] = named[json.dumps(row["settings"], sort_keys=True)]
    path.write_text("".join(json.dumps({**row, **columns}) + "\n" for row in rows[skip:]))
    return path


WORTH = {json.dumps({}): 1.0, json.dumps(GELU): 0.5, json.dumps(NORM): 1.3}


def through_gate(config: SweepConfig, path: Path) -> Passage:
    return gate.through_gate(config, [cell.id for cell in cells_of(config)], path)


def second_stage(found: Passage) -> list[dict[str, Any]]:
    return list(found.sweep.cells)


def test_the_base_and_what_passed_go_on_to_the_larger_rungs(tmp_path: Path):
    config = gated()
    found = through_gate(config, write(tmp_path / "ledger.jsonl", config, WORTH))
    assert [(one.change, passed) for one, passed in found.judged] == [("mlp=gelu", False), ("qk_norm=true", True)]
    seeds = ({"seed": 6}, {"seed": 7})  # the fourth rung's
    assert second_stage(found) == [{**LARGE[0], **seed, **change} for change in ({}, NORM) for seed in seeds]
    assert "mlp=gelu does not pass: reject" in found.lines[0] and "qk_norm=true passes: promote" in found.lines[1]
    assert len(cells_of(found.sweep)) == 18 + 4


def test_the_gate_is_shut_until_the_first_stage_has_ended(tmp_path: Path):
    config = gated()
    nothing = through_gate(config, tmp_path / "none.jsonl")
    assert nothing.sweep is config and not nothing.judged
    assert not through_gate(config, write(tmp_path / "a.jsonl", config, WORTH, skip=1)).judged
    assert not through_gate(config, write(tmp_path / "b.jsonl", config, WORTH, status="failed")).judged


def test_what_the_larger_rungs_say_does_not_move_the_gate(tmp_path: Path):
    config, path = gated(), tmp_path / "ledger.jsonl"
    before = through_gate(config, write(path, config, WORTH))
    later = json.loads(path.read_text().splitlines()[-1])
    path.write_text(path.read_text() + json.dumps({**later, "cell": "larger", "loss": 9.0}) + "\n")
    assert through_gate(config, path).sweep == before.sweep


def test_a_gate_may_ask_for_a_promotion_or_for_a_worth(tmp_path: Path):
    nothing = {**WORTH, json.dumps(NORM): 1.0}
    config = gated(passes="promoted")
    assert second_stage(through_gate(config, write(tmp_path / "a.jsonl", config, nothing))) == []
    config = gated(worth=2.0)
    assert second_stage(through_gate(config, write(tmp_path / "b.jsonl", config, WORTH))) == []


def test_a_gate_over_anything_else_is_refused(tmp_path: Path):
    for wrong in ({"changes": [GELU, NORM]}, {"changes": [{}, GELU], "rungs": [], "vary": {"seed": [1]}}):
        with pytest.raises(UserError, match="a gate judges changes of a base"):
            through_gate(sweep(**{"gate": {"rungs": LARGE}, **wrong}), tmp_path / "x")
    with pytest.raises(UserError, match=r"is no change that a gate can judge.*--group-by"):
        through_gate(sweep(changes=[{}, {"optim.lr_factor": 2.0}], gate={"rungs": LARGE}), tmp_path / "x")


def test_the_sweep_that_is_shipped_has_a_ladder_before_its_gate():
    config = load_sweep(ROOT / "configs" / "sweep" / "gate.yaml")
    assert config.gate is not None and len(config.rungs) >= 3 and len(cells_of(config)) == 18


def test_one_run_of_a_sweep_goes_through_its_gate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The stages are those of `open_sweep` before and after the first: the second has the cells that passed."""
    config, told, stages = gated(), [], []

    class Console:
        def print(self, text: str, **_: object) -> None:
            told.append(text)

    class Opened:
        def __init__(self, cells: int, gate: tuple[str, ...]) -> None:
            self.sweep, self.cells, self.gate = config, [None] * cells, gate

    def run(*opened: Opened) -> Result:
        stages.clear()
        left = list(opened)
        monkeypatch.setattr(story, "open_sweep", lambda *_, **__: left.pop(0))
        monkeypatch.setattr(
            story, "_stage", lambda one, *_: stages.append(len(one.cells)) or Result([len(one.cells)], tmp_path)
        )
        return story._go_on(Wish(tmp_path, (), tmp_path), None, "", Console())

    assert run(Opened(18, ()), Opened(22, ("gate: passes",))).started == [18, 22] and stages == [18, 22]
    assert run(Opened(18, ()), Opened(18, ("gate: none",))).started == [18] and told == ["gate: none"]
    assert run(Opened(22, ("gate: passes",))).started == [22], "an open gate needs no second look"


def test_the_order_of_the_data_has_the_seed_that_is_its_own(monkeypatch: pytest.MonkeyPatch):
    """The one place where a rank opens its batches is given it; initial values keep the run's seed."""
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    from trainer import session

    monkeypatch.setattr(session, "open_batches", lambda _data, **asked: asked["seed"])
    plan = SimpleNamespace(sequences_per_step=1, micro_batch=1, steps=1, ramp=None)
    mesh = SimpleNamespace(dp_rank=0, dp_size=1)
    for data, wanted in (({}, 3), ({"seed": 5}, 5)):
        run = run_from_values({**RUN, "seed": 3, "data": {"name": "x", **data}}, "t")
        assert session._open_batches(run, plan, None, mesh, torch.device("cpu"), None, ()) == wanted
