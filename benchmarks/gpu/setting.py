"""Where the sections measure, and what they share: runs, batches, clocks, time that is left."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from trainer.config.base import parse_section
from trainer.config.run import RunConfig
from trainer.data.read.batches import MicroBatch
from trainer.engine.build import build_engine
from trainer.engine.engine import Engine
from trainer.models.build import make_model
from trainer.parallel.start import start

Row = dict[str, float | int | str | None]
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """The device, whether only to see that everything runs, and until when a section begins something new."""

    device: torch.device
    tiny: bool
    out: Path  # of gpu.json and of what else is measured
    until: float = float("inf")  # by time.monotonic()
    left_out: list[str] = field(default_factory=list)  # cases of the section that its time did not suffice for

    @property
    def engines(self) -> list[str]:
        """The engines whose library is installed."""
        return ["fsdp", *(["deepspeed"] if find_spec("deepspeed") else [])]

    @property
    def gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def in_time(self, cases: Mapping[str, T]) -> Iterator[tuple[str, T]]:
        """Yield the cases that begin before the section's time is over, and note the others."""
        for name, case in cases.items():
            if time.monotonic() < self.until:
                yield name, case
            else:
                self.left_out.append(name)

    def join(self) -> None:
        """Join a world of this process alone, in which the processor's tensors have collectives too."""
        if self.gpu:
            torch.cuda.set_device(self.device)
        backend = "cpu:gloo,cuda:nccl" if self.gpu else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)

    def config(self, model: dict[str, Any], sequences: int, **sections: Any) -> RunConfig:
        """Return a run on this device with batches of so many sequences."""
        tokens = sequences * int(model["context_length"])
        values = {"model": model, "data": {}, "batch": {"tokens_per_step": tokens}, "steps": 10, "precision": "fp32"}
        values |= {"device": self.device.type, **sections}
        return parse_section(RunConfig, values, "benchmark")

    def engine(self, config: RunConfig) -> Engine:
        """Build the engine of a run on a world of this process alone."""
        mesh = start(config.parallel, self.device)
        with torch.device("meta"):
            model = make_model(config.model)
        return build_engine(config, model, mesh, lr=1e-3, accumulation=1, device=self.device)

    def batch(self, config: RunConfig, seed: int = 0) -> MicroBatch:
        """Return a batch of random tokens in (pinned) host memory, as the pipeline gives it."""
        context, rows = config.model.context_length, config.model.vocab_size or 0
        shape = (config.batch.tokens_per_step // context, context + 1)
        tokens = torch.randint(0, rows, shape, generator=torch.Generator().manual_seed(seed))
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        if self.gpu:
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
        return MicroBatch(inputs, targets)

    def wait(self) -> None:
        """Wait for the device."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def first(self, step: Callable[[], object]) -> float:
        """Return the seconds of a step that nothing came before: with compilation, where there is any."""
        began = time.perf_counter()
        step()
        self.wait()
        return time.perf_counter() - began

    def seconds(self, step: Callable[[], object], repeats: int) -> float:
        """Return the seconds of one step in a row of them, after two that are not counted."""
        step(), step()
        self.wait()
        began = time.perf_counter()
        for _ in range(repeats):
            step()
        self.wait()
        return (time.perf_counter() - began) / repeats

    def forget(self) -> None:
        """Give the memory of what nobody holds any more back, and count the allocator's peak anew."""
        gc.collect()  # engines are cycles of hooks
        if self.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        """Return the most bytes of the allocator since `forget`; 0 on a processor."""
        return torch.cuda.max_memory_allocated(self.device) if self.gpu else 0
