"""Published training runs beside the planner's estimate of them.

The table and its sources are in published_throughput.csv.
"""

from __future__ import annotations

import csv
import random
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from launch.planner.rates import FUSED_CAST_BYTES, FUSED_LOSS_BYTES, LOSS_BYTES, RATES, Rates
from launch.planner.shape import Way, shape_of
from launch.planner.step_time import StepTime, step_time
from trainer.config.parallel import ParallelConfig
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.counting import count_parameters
from trainer.plan.gpus import GIB, GPUS, Gpu
from trainer.plan.memory import rank_memory
from trainer.plan.shape import Shape

TABLE = Path(__file__).with_name("published_throughput.csv")
SEED = 14  # of the choice of llm-foundry's half that the rates were fitted to
# torchtitan's H100: HBM2e, and a power limit of 500 W that is not modelled.
CLUSTERS: dict[str, Gpu] = {
    **GPUS,
    "H100-Grand-Teton": replace(GPUS["H100-SXM"], name="H100-Grand-Teton", memory=96 * GIB, bandwidth=2.4e12),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt": {"mlp": "gelu", "norm": "layernorm", "position": "learned", "bias": True},
    "mpt": {"mlp": "gelu", "norm": "layernorm", "position": "learned", "bias": True},
    "llama": {"tied_embeddings": False},
}


@dataclass(frozen=True)
class Published:
    """One row of the table."""

    values: dict[str, str]
    fitted: bool  # the rates were fitted to it

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    @property
    def measured(self) -> float:
        """Tokens per second of one GPU."""
        return float(self["tokens_per_second_gpu"])

    @cached_property
    def model(self) -> TransformerConfig:
        """The model, whose parameters tests compare with the published number."""
        names = ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")
        sizes = {name: int(self[name]) for name in names}
        context = {"vocab_size": int(self["vocab"]), "context_length": int(self["context"])}
        return TransformerConfig.model_validate({**sizes, **context, **FAMILIES[self["family"]]})

    @cached_property
    def shape(self) -> Shape:
        return shape_of(self.model)

    @cached_property
    def parameters(self) -> int:
        return count_parameters(self.model).total

    @property
    def gpu(self) -> Gpu:
        return CLUSTERS[self["gpu"]]

    @cached_property
    def way(self) -> Way:
        """How it was run. Half recomputation is taken as the mean of none and full, see `time`."""
        names = ("data", "tensor", "pipeline", "chunks", "zero", "micro_batch", "accumulation", "reduce_bytes")
        numbers: dict[str, Any] = {name: int(self[name]) for name in names}
        return Way(
            **numbers,
            recompute=self["recompute"] if self["recompute"] in ("none", "full") else "none",
            precision=self["precision"],
            compiled=self["compiled"] == "yes",
            flash=self["family"] != "gpt",  # it did not exist in 2021
            loss_bytes=FUSED_LOSS_BYTES if self["family"] == "mpt" else LOSS_BYTES,
            cast_bytes=FUSED_CAST_BYTES,  # by Transformer Engine, or compiled
            overlap=self["overlap"] != "none",
            tensor_overlap=1.0 if "tensor" in self["overlap"] else 0.0,
        )

    def time(self, rates: Rates = RATES) -> float:
        """Return the seconds of a step that the planner expects."""
        none = self._time(self.way, rates)
        if not self["recompute"].startswith("half"):
            return none.total
        full = self._time(replace(self.way, recompute="full"), rates)
        if self["recompute"] == "half of products":  # attention's result is kept (torchtitan's selective "op")
            full = replace(full, attention=none.attention)
        return (none.total + full.total) / 2

    def _time(self, way: Way, rates: Rates) -> StepTime:
        return step_time(self.shape, way, self.gpu, self.parameters, rates)

    def ratio(self, rates: Rates = RATES) -> float:
        """Return predicted over measured throughput."""
        way = self.way
        tokens = way.data * way.micro_batch * way.accumulation * self.shape.T
        return tokens / self.time(rates) / way.world / self.measured

    def planned_bytes(self) -> int | None:
        """Return the memory that a rank would be planned to need; None with a pipeline: the plan has none."""
        if self.way.pipeline > 1:
            return None
        half = self["recompute"].startswith("half")
        amounts = ("none", "full") if half else (self["recompute"],)
        return sum(self._bytes(amount) for amount in amounts) // len(amounts)

    def _bytes(self, recompute: str) -> int:
        way = self.way
        parallel = ParallelConfig(zero_stage=way.zero, tensor=way.tensor, recompute=recompute)  # type: ignore[arg-type]
        return rank_memory(
            self.model, parallel, data_parallel=way.data, micro_batch=way.micro_batch, bytes_per_value=2, gpu=True
        ).total


@cache
def published() -> tuple[Published, ...]:
    """Return all rows; the fitted ones are Narayanan's and a half of llm-foundry's that SEED chooses."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    mosaic = [i for i, row in enumerate(rows) if row["source"] == "llm-foundry"]
    fitted = set(random.Random(SEED).sample(mosaic, len(mosaic) // 2))
    return tuple(Published(row, i in fitted or row["source"] == "Narayanan 2021") for i, row in enumerate(rows))
