"""What `python -m benchmarks.gpu` runs on a GPU can be planned for one, and its peer has the shape of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import documents, families, memory, sweep
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.throughput import LARGE, LARGER, ways_of
from benchmarks.step_time import Peer
from tests.scaling.ladders import ladder_rows
from trainer.models.build import make_model
from trainer.models.mixers.registry import MIXERS
from trainer.plan.counting import count_parameters
from trainer.plan.gpus import GPUS
from trainer.plan.plan import make_plan

SETTING = Setting(torch.device("cuda", 0), tiny=False, out=Path())
FAMILIES = {"vocab_size": 256, "size": "30M"}


def shapes() -> list[tuple[dict[str, Any], int, dict[str, Any]]]:
    """Return the models of all sections, with sequences of a step and the parallel section."""
    found: list[tuple[dict[str, Any], int, dict[str, Any]]] = []
    for shape, sequences, recompute, compiled in memory.SHAPES:
        found.append(({"vocab_size": 50304, **shape}, sequences, {"recompute": recompute, "compile": compiled}))
    for context in (2048, 8192):
        found.append(({**documents.MODEL, "context_length": context}, 16384 // context, {}))
    for size in sweep.SIZES:
        model = {"vocab_size": 257, "size": size, "context_length": sweep.CONTEXT}
        found.append((model, sweep.SEQUENCES, {"compile": False}))
    for name in MIXERS:
        for context in families.CONTEXTS:
            model = {**FAMILIES, "context_length": context, "mixer": name}
            found.append((model, families.TOKENS // context, {"compile": False}))
    return found


def test_every_shape_fits_an_h100() -> None:
    for model, sequences, parallel in shapes():
        parallel = {"engine": "fsdp", **parallel}
        config = SETTING.config(model, sequences, precision="bf16", parallel=parallel)
        plan = make_plan(config, world=1, gpu=True)
        assert plan.accumulation == 1 and plan.memory_bytes["total"] < GPUS["H100-SXM"].usable, model


def test_every_way_of_ours_can_be_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    ways = ways_of(SETTING)
    assert {str(way.compile) for way in ways} == {"False", "blocks", "model", "graphs"}
    for way in ways:
        for shape, sequences in ((LARGE, 16), (LARGER, 8)):
            parallel = {"engine": way.engine, "zero_stage": 1, "compile": way.compile}
            config = SETTING.config(shape, sequences, precision=way.precision, parallel=parallel)
            plan = make_plan(config, world=1, gpu=True)
            assert plan.compiled == (way.compile or None) and plan.memory_bytes["total"] < GPUS["H100-SXM"].usable


@pytest.mark.parametrize("shape", [LARGE, LARGER], ids=["124M", "1B"])
def test_the_peer_has_the_shape_of_ours_on_any_device(shape: dict[str, Any]) -> None:
    config: Any = SETTING.config(shape, 16).model
    with torch.device("meta"):
        peer, ours = Peer(config), make_model(config)
    tokens = torch.zeros(2, config.context_length, dtype=torch.int64, device="meta")
    assert peer(tokens, tokens).device.type == "meta" and ours(tokens, tokens).shape == tokens.shape
    count = sum(parameter.numel() for parameter in peer.parameters())
    assert count == count_parameters(config).total == sum(parameter.numel() for parameter in ours.parameters())


def test_the_law_of_the_cells_is_told_or_why_there_is_none(tmp_path: Path) -> None:
    """Cells of one length at several sizes, as the sweep has them; `--tiny` has too few for a law."""
    rows = [{**row, "tokens": 10**6} for row in ladder_rows(seeds=3, own_seeds=False)]
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = " ".join(str(row["law"]) for row in sweep.law(ledger))
    assert told.startswith("12 cells from") and "Held out" in told
    ledger.write_text(json.dumps(rows[0]) + "\n")
    assert str(sweep.law(ledger)[0]["law"]).startswith("none: ")
