"""States that lanes carry from step to step, on ranks: the losses of one process, whatever reads the lanes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.dist.pool import RankError, RankPool
from tests.dist.runs import SEQUENCES, TOKENS, MicroBatch, global_batch, tiny
from trainer.config.run import RunConfig

STEPS = 8
LOSS = 2e-6
MODELS: dict[str, dict[str, Any]] = {
    "lstm": {"n_heads": None, "mixer": "lstm"},
    "mlstm": {"mixer": "mlstm"},
    "gated_delta": {"mixer": "gated_delta"},
    "transformer-xl": {"position": "relative", "memory": 24, "bias": True},
    "rotary": {},
}


def run_of(name: str, **parallel: Any) -> RunConfig:
    return tiny(model={**MODELS[name], "carry": True}, data={"order": "streams"}, parallel=parallel)


def micro_batches(step: int, dp_rank: int, dp_size: int, accumulation: int) -> list[MicroBatch]:
    """Return one data rank's part of a step in which some lanes begin anew."""
    batch = global_batch(step)
    begins = torch.from_numpy(np.random.default_rng(step).integers(0, 4, SEQUENCES) == 0)
    rows = SEQUENCES // dp_size // accumulation
    first = dp_rank * rows * accumulation
    parts = [slice(first + i * rows, first + (i + 1) * rows) for i in range(accumulation)]
    return [MicroBatch(batch.inputs[part], batch.targets[part], begins=begins[part]) for part in parts]


@functools.cache
def reference(name: str) -> list[float]:
    """Return the losses of a plain loop on one process, which keeps every lane's state by itself."""
    from trainer.models.build import build_model
    from trainer.optim.groups import parameter_groups

    config = run_of(name)
    model = build_model(config.model, config.seed)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.optim), lr=float(config.optim.lr), betas=config.optim.betas,
        eps=config.optim.eps,
    )  # fmt: skip
    states, curve = [model.carried_state() for _ in range(SEQUENCES)], []
    for step in range(STEPS):
        (batch,) = micro_batches(step, 0, 1, 1)
        total = torch.zeros(())
        for lane in range(SEQUENCES):
            assert batch.begins is not None
            if batch.begins[lane]:
                states[lane] = model.carried_state()
            row = slice(lane, lane + 1)
            total = total + model(batch.inputs[row], batch.targets[row], state=states[lane]).sum()
            for layer in states[lane].layers:
                layer.update({key: kept.detach() for key, kept in layer.items()})
        loss = total / (SEQUENCES * TOKENS)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip_norm or float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        curve.append(float(loss))
    return curve


def train(
    config: RunConfig, accumulation: int, first: int = 0, stop: int = STEPS, root: str = "", source: str = ""
) -> list[float]:
    """Train steps [first, stop) on this world, from a checkpoint and to one where they are given."""
    from trainer.checkpoint.load import load
    from trainer.checkpoint.manifest import read_manifest
    from trainer.checkpoint.save import save
    from trainer.engine.build import build_engine
    from trainer.models.build import build_model
    from trainer.parallel.start import start

    device = torch.device("cpu")
    mesh = start(config.parallel, device)
    model = build_model(config.model, config.seed)
    engine = build_engine(config, model, mesh, lr=1.0, accumulation=accumulation, device=device)
    if source:
        load(engine, Path(source), read_manifest(Path(source)))
    curve = []
    for step in range(first, stop):
        batches = micro_batches(step, mesh.dp_rank, mesh.dp_size, accumulation)
        curve.append(engine.train_step(batches, float(config.optim.lr)).loss)
        engine.token_losses(global_batch(99), engine.new_carried())  # disturbs nothing
    if root:
        save(engine, Path(root), stop, {})
    engine.close()
    return curve


CELLS = [
    ("lstm", 2, 2, {"zero_stage": 1}),
    ("lstm", 2, 1, {"zero_stage": 3, "recompute": "full"}),
    ("mlstm", 2, 1, {"tensor": 2, "zero_stage": 0}),
    ("gated_delta", 2, 2, {"zero_stage": 2, "recompute": "selective"}),
    ("transformer-xl", 2, 2, {"zero_stage": 1}),
    ("transformer-xl", 2, 1, {"tensor": 2, "zero_stage": 1, "recompute": "selective"}),
    ("transformer-xl", 4, 1, {"tensor": 2, "zero_stage": 3}),
    ("rotary", 2, 1, {"zero_stage": 2}),
]


@pytest.mark.parametrize(("name", "world", "accumulation", "parallel"), CELLS, ids=str)
def test_ranks_equal_a_plain_loop(
    ranks: RankPool, name: str, world: int, accumulation: int, parallel: dict[str, Any]
) -> None:
    curves = ranks.run(world, train, run_of(name, **parallel), accumulation)
    for curve in curves:
        assert curve == pytest.approx(reference(name), abs=LOSS)


@pytest.mark.parametrize("name", ["lstm", "transformer-xl"])
def test_lanes_are_gone_on_with_by_any_number_of_data_ranks(ranks: RankPool, tmp_path: Path, name: str) -> None:
    """From two ranks to one with two micro-batches to four, and bit for bit on the layout that saved."""
    config = run_of(name)
    source = str(tmp_path / "step_000000003")
    whole, *_ = ranks.run(2, train, config, 1)
    head, *_ = ranks.run(2, train, config, 1, 0, 3, str(tmp_path))
    tail, *_ = ranks.run(2, train, config, 1, 3, STEPS, "", source)
    assert head + tail == whole
    middle, *_ = ranks.run(1, train, config, 2, 3, 5, str(tmp_path), source)
    end, *_ = ranks.run(4, train, config, 1, 5, STEPS, "", str(tmp_path / "step_000000005"))
    assert head + middle + end == pytest.approx(reference(name), abs=LOSS)


def test_another_number_of_tensor_ranks_is_refused(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(2, train, run_of("mlstm", tensor=2, zero_stage=0), 1, 0, 2, str(tmp_path))
    with pytest.raises(RankError, match="states of its lanes for 2 tensor ranks, and this run has 1"):
        ranks.run(1, train, run_of("mlstm"), 1, 2, 3, "", str(tmp_path / "step_000000002"))
