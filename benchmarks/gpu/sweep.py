"""A sweep of twelve cells of 1M to 10M: one after another against several on the GPU at a time, and its law.

Packed, all twelve cells share the GPU (`options.slots_per_gpu`, with MPS where it can be started). One after another,
four of them do: one of each size, which is the same mixture. Both run as `escala sweep submit` runs them.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.gpu.setting import Row, Setting
from launch.cluster.local.mps import PROGRAM
from launch.scaling.other.ladder import fit_ladder
from launch.scaling.report.ladder import headline
from launch.scaling.table.load import load
from launch.show.console import PlainConsole
from launch.sweep.execute.opened import open_sweep
from launch.sweep.execute.story import Wish, submit_sweep
from trainer.contract.errors import UserError
from trainer.contract.plain_json import rows_of
from trainer.plan.gpus import gpu_of_driver

SIZES, SEEDS, SLOTS = ("1M", "2M", "5M", "10M"), 3, 6
SMALL = ("10k", "20k")
CONTEXT, SEQUENCES = 512, 16
TRAINS = 3.0  # seconds that a cell of the largest size trains alone
STEPS = (40, 600)  # the least and the most of a cell


def measure(setting: Setting) -> dict[str, list[Row]]:
    """Return both ways' tokens per second in sum and goodput; and what the law says."""
    setting.forget()
    sizes, seeds, slots = (SMALL, 1, 2) if setting.tiny else (SIZES, SEEDS, SLOTS)
    steps = 4 if setting.tiny else steps_of(setting)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        ways = {"packed": (seeds, slots)} if setting.tiny else {"alone": (1, 1), "packed": (seeds, slots)}
        rows = [run(setting, root, name, sizes, *way, steps) for name, way in ways.items()]
        if len(rows) == 2:
            for what in ("tokens/s", "tokens/s while all train"):
                rows[1][f"{what}, x alone"] = float(rows[1][what] or 0) / float(rows[0][what] or 1)
        return {"sweep": rows, "law": law(root / "runs" / "packed" / "ledger.jsonl")}


def steps_of(setting: Setting) -> int:
    """Return how many steps have the largest cell train for `TRAINS` seconds alone."""
    config = setting.config(model_of(SIZES[-1], setting) | {"vocab_size": 257}, SEQUENCES, **run_of(setting))
    built, batch = setting.engine(config), setting.batch(config)
    seconds = setting.seconds(partial(built.train_step, [batch], 1e-3), 10)
    built.close()
    return round(min(max(TRAINS / seconds, STEPS[0]), STEPS[1]))


def model_of(size: str, setting: Setting) -> dict[str, Any]:
    """Return the model of a cell."""
    return {"size": size, "context_length": 64 if setting.tiny else CONTEXT}


def run_of(setting: Setting) -> dict[str, Any]:
    """Return what the runs of cells have besides. They are too short to be worth compiling."""
    return {"parallel": {"engine": "fsdp", "compile": False}, "precision": "bf16" if setting.gpu else "fp32"}


def run(setting: Setting, root: Path, name: str, sizes: tuple[str, ...], seeds: int, slots: int, steps: int) -> Row:
    """Train the cells, so many at a time, and return what the whole of it gave."""
    context, sequences = (64, 2) if setting.tiny else (CONTEXT, SEQUENCES)
    data = {
        "name": "gpu", "root": str(root / "data"), "tokenizer": {"kind": "bytes"}, "held_out_fraction": 0.1,
        "sources": [{"path": "embedded", "max_bytes": "1M" if setting.tiny else "4M"}],
    }  # fmt: skip
    shared = {
        "data": data, "model": {"context_length": context}, "batch": {"tokens_per_step": context * sequences},
        "steps": steps, "evaluation": {"tokens": context * sequences if setting.tiny else "130k"},
        "tracking": {"log_every": "2 steps" if setting.tiny else "20 steps"}, **run_of(setting),
    }  # fmt: skip
    sweep = {"name": name, "run": shared, "vary": {"model.size": list(sizes), "seed": list(range(seeds))}}
    kind = gpu_of_driver(torch.cuda.get_device_name(setting.device)) if setting.gpu else None
    cluster: dict[str, Any] = {"backend": "local", "ranks_per_node": slots}
    if kind is not None:
        cluster |= {"gpu": kind.name, "options": {"slots_per_gpu": slots}}
    file, where = root / f"{name}.yaml", root / f"cluster-{name}.yaml"
    file.write_text(yaml.safe_dump(sweep))
    where.write_text(yaml.safe_dump(cluster))
    wish = Wish(file, (), root / "runs")
    opened = open_sweep(file, (), wish.runs, gpu=setting.gpu)  # prepares the data, which the first alone would pay for
    said = io.StringIO()
    began = time.time()
    try:
        failure = submit_sweep(wish, str(where), PlainConsole(file=said, width=200)).failure
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":  # of the report, which is written when all has ended
            raise
        failure = ""
    if failure:
        raise RuntimeError(f"{failure}\n{said.getvalue()[-2000:]}")
    wall = max(one.run_dir.result.stat().st_mtime for one in opened.cells) - began
    last = [[r for r in rows_of(one.run_dir.metrics) if r["kind"] == "train"][-1] for one in opened.cells]
    tokens, trained = sum(row["tokens"] for row in last), sum(row["train_seconds"] for row in last)
    busy = trained / min(slots, len(last))
    return {
        "cells": len(last), "at a time": slots, "steps": steps,
        "MPS": "yes" if slots > 1 and setting.gpu and shutil.which(PROGRAM) else "no", "seconds": wall,
        "tokens/s while all train": tokens / busy, "goodput": busy / wall, "tokens/s": tokens / wall,
        "start of a cell, s": sum(row["start_seconds"] for row in last) / len(last),
    }  # fmt: skip


def law(ledger: Path) -> list[Row]:
    """Return what the ladder of the packed cells says."""
    try:
        return [{"law": line} for line in headline(fit_ladder(load(ledger)))]
    except UserError as error:
        return [{"law": f"none: {error}"}]
