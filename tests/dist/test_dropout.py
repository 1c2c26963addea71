"""Dropout under tensor and sequence parallelism: the same where activations are shared, apart in other heads."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dist.pool import RankPool
from tests.dist.runs import global_batch, micro_batches, spread, tiny
from trainer.config.run import RunConfig

DROPOUT: dict[str, Any] = {"dropout": 0.3, "n_heads": 4}


def gradients(config: RunConfig) -> dict[str, Any]:
    """Return the replicated parameters after three steps, and the sum of what attention dropped on this rank."""
    import torch
    import torch.nn.functional as F

    from trainer.engine.build import build_engine
    from trainer.models.build import build_model
    from trainer.parallel.start import start

    masks: list[float] = []
    mesh = start(config.parallel, torch.device("cpu"))
    model = build_model(config.model, 0)
    plain = model.blocks[0].attn.attend

    def record(query: Any, key: Any, value: Any, documents: Any, dropout: float) -> Any:
        if dropout:
            masks.append(float(F.dropout(torch.ones(1000), dropout).sum()))
        return plain(query, key, value, documents, dropout)

    model.blocks[0].attn.attend = record
    engine = build_engine(config, model, mesh, lr=1.0, accumulation=1, device=torch.device("cpu"))
    for step in range(3):
        engine.train_step(micro_batches(global_batch(step), mesh.dp_rank, mesh.dp_size, 1), 3e-3)
    norm = engine.module.norm.weight.detach().flatten().tolist()
    engine.close()
    return {"norm": norm, "masks": masks}


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_replicated_parameters_agree_and_heads_drop_apart(ranks: RankPool, recompute: str) -> None:
    results = ranks.run(2, gradients, tiny(model=DROPOUT, parallel={"tensor": 2, "recompute": recompute}))
    assert results[0]["norm"] == results[1]["norm"]
    assert len(results[0]["masks"]) == (6 if recompute == "full" else 3)
    assert all(a != b for a, b in zip(results[0]["masks"], results[1]["masks"], strict=True))
    if recompute == "full":  # the backward pass drops what the forward pass dropped
        assert results[0]["masks"][0::2] == results[0]["masks"][1::2]


def test_dropout_repeats(ranks: RankPool) -> None:
    config = tiny(model=DROPOUT, parallel={"tensor": 2})
    first, second = ranks.run(4, spread, config, 2), ranks.run(4, spread, config, 2)
    assert first == second
