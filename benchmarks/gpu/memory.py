"""The planner's memory and step time against those measured, at six shapes."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.gpu.setting import Row, Setting
from trainer.config.parallel import Degrees
from trainer.plan.plan import make_plan, run_memory, share_out

SHAPES: tuple[tuple[dict[str, Any], int, str], ...] = (
    ({"size": "30M", "context_length": 1024}, 16, "none"),
    ({"size": "120M", "context_length": 1024}, 16, "none"),
    ({"size": "120M", "context_length": 1024}, 16, "full"),
    ({"size": "120M", "context_length": 4096}, 4, "selective"),
    ({"size": "350M", "context_length": 2048}, 8, "none"),
    ({"size": "1B", "context_length": 2048}, 4, "full"),
)
SMALL: tuple[tuple[dict[str, Any], int, str], ...] = (({"size": "10k", "context_length": 64}, 2, "none"),)


def measure(setting: Setting) -> list[Row]:
    """Return planned and measured bytes of the allocator's peak, and milliseconds of a step."""
    rows: list[Row] = []
    for shape, sequences, recompute in SMALL if setting.tiny else SHAPES:
        setting.forget()
        model = {"vocab_size": 256 if setting.tiny else 50304, **shape}
        parallel = {"engine": setting.engines[-1], "recompute": recompute}
        config = setting.config(model, sequences, precision="bf16", parallel=parallel)
        gpu = setting.device.type == "cuda"
        planned = make_plan(config, world=1, gpu=gpu)
        _, batch = share_out(config, 1, gpu=gpu)
        memory = run_memory(config, Degrees(1, 1, 1), batch, gpu=gpu)
        built, data = setting.engine(config), setting.batch(config)
        seconds = setting.seconds(partial(built.train_step, [data], 1e-4), 1 if setting.tiny else 5)
        peak = setting.peak_bytes()
        rows.append(
            {
                "model": str(shape["size"]), "context": int(shape["context_length"]), "recompute": recompute,
                "engine": setting.engines[-1], "planned, GB": memory.total / 1e9, "measured, GB": peak / 1e9,
                "measured / planned": peak / memory.total, "ms a step": 1000 * seconds,
                "tokens/s": planned.tokens_per_step / seconds,
            }
        )  # fmt: skip
        built.close()
        del built
    return rows
