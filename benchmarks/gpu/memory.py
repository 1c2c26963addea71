"""The planner's memory and step time against those measured at six shapes, and its rates fitted to these steps."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.setting import Row, Setting
from launch.planner.expected import step_on_gpus
from launch.planner.measured import CardRates, MeasuredStep, keep_rates
from launch.planner.rates import RATES
from launch.planner.shape import shape_of, way_of
from launch.planner.step_time import step_time
from trainer.config.parallel import Degrees
from trainer.plan.counting import count_parameters
from trainer.plan.gpus import Gpu, find_gpu, gpu_of_driver
from trainer.plan.plan import run_memory, share_out

# model, sequences, recompute, compile
SHAPES: tuple[tuple[dict[str, Any], int, str, str | bool], ...] = (
    ({"size": "30M", "context_length": 1024}, 16, "none", False),
    ({"size": "120M", "context_length": 1024}, 16, "none", False),
    ({"size": "120M", "context_length": 1024}, 16, "full", False),
    ({"size": "120M", "context_length": 8192}, 2, "selective", False),
    ({"size": "1B", "context_length": 2048}, 4, "full", False),
    ({"size": "350M", "context_length": 2048}, 8, "none", "blocks"),
)
SMALL: tuple[tuple[dict[str, Any], int, str, str | bool], ...] = (
    ({"size": "10k", "context_length": 64}, 2, "none", False),
)
FEWEST = 4  # steps that rates are fitted to


def measure(setting: Setting) -> dict[str, list[Row]]:
    """Return planned and measured bytes of the allocator's peak, and milliseconds of a step; and the fitted rates."""
    card = gpu_of_driver(torch.cuda.get_device_name(setting.device)) if setting.gpu else find_gpu("H100")
    rows, steps = [], []
    cases = {
        f"{s[0]['size']}, context {s[0]['context_length']}, {s[2]}": s for s in (SMALL if setting.tiny else SHAPES)
    }
    for _, (shape, sequences, recompute, compiled) in setting.in_time(cases):
        row, step = one(setting, shape, sequences, {"recompute": recompute, "compile": compiled}, card)
        rows.append(row)
        if step is not None:
            steps.append(step)
    tables = {"memory": rows}
    if setting.gpu and card is not None and len(steps) >= FEWEST:
        tables["rates"] = fitted(setting, card, steps)
    return tables


def one(
    setting: Setting, shape: dict[str, Any], sequences: int, parallel: dict[str, Any], card: Gpu | None
) -> tuple[Row, MeasuredStep | None]:
    """Measure one shape. Without a step for a card that the planner does not know."""
    setting.forget()
    held = torch.cuda.memory_allocated(setting.device) if setting.gpu else 0
    model, engine = {"vocab_size": 256 if setting.tiny else 50304, **shape}, setting.engines[0]
    config = setting.config(model, sequences, precision="bf16", parallel={"engine": engine, **parallel})
    degrees, batch = share_out(config, 1, gpu=setting.gpu)
    memory = run_memory(config, degrees, batch, gpu=setting.gpu)
    built, data = setting.engine(config), setting.batch(config)
    seconds = setting.seconds(partial(built.train_step, [data], 1e-4), 1 if setting.tiny else 5)
    peak = setting.peak_bytes() - held
    reserved = torch.cuda.max_memory_reserved(setting.device) - held if setting.gpu else 0
    row: Row = {
        "model": str(shape["size"]), "context": int(shape["context_length"]),
        "parallel": ", ".join(f"{key} {value}" for key, value in parallel.items()), "engine": engine,
        "planned, GB": memory.total / 1e9, "measured, GB": peak / 1e9, "measured / planned": peak / memory.total,
        "reserved, GB": reserved / 1e9, "ms a step": 1000 * seconds,
    }  # fmt: skip
    built.close()
    if card is None:
        return row, None
    planned = step_on_gpus(config, Degrees(1, 1, 1), batch, card, ranks_per_node=1).total
    way = way_of(config, degrees, batch, zero=1, ranks_per_node=1)
    row |= {"planned, ms": 1000 * planned, "ms, measured / planned": seconds / planned}
    return row, MeasuredStep(shape_of(config.model), way, count_parameters(config.model).total, seconds)


def fitted(setting: Setting, card: Gpu, steps: list[MeasuredStep]) -> list[Row]:
    """Fit the planner's rates, keep them for this user and in rates.json, and return them with what they leave."""
    try:
        from launch.planner.fit_rates import fit_rates, fitted_names
    except ModuleNotFoundError as error:  # scipy, which the rest does without
        return [{"rate": f"not fitted: {error}"}]
    rates = fit_rates(steps, card)
    found = CardRates(rates, datetime.now(UTC).date().isoformat(), len(steps))
    file = keep_rates(card, found)
    setting.out.mkdir(parents=True, exist_ok=True)
    (setting.out / "rates.json").write_text(json.dumps({card.name: asdict(found)}, indent=1) + "\n")
    print(f"the planner takes the rates of {file} for a {card.name} from now on")
    rows: list[Row] = [
        {"rate": name, "published": getattr(RATES, name), "fitted": getattr(rates, name)} for name in fitted_names(card)
    ]
    for name, at in (("published", RATES), ("fitted", rates)):
        off = [step_time(s.shape, s.way, card, s.parameters, at).total / s.seconds - 1 for s in steps]
        rows.append({"rate": f"worst error, {name}", name: max(abs(x) for x in off)})
    return rows
