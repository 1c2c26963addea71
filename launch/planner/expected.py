"""How long a run takes: on GPUs by `launch/planner/step_time.py`, on this machine's cores by a roofline of their own.

On cores, seconds per token and rank = FLOPs / (EFFICIENCY x matrix rate) + bytes moved / BANDWIDTH. The matrix rate is
measured once, in a fifth of a second. The other constants are those with which `python -m benchmarks.mixers plan` finds
most mixers within 30 % (docs/benchmarks/models.md); while a sweep runs, what is left of a running cell is told from its
own rate.
"""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from launch.cluster.this_machine import available_cores
from launch.planner.measured import rates_of
from launch.planner.rates import SERIAL_KERNEL
from launch.planner.shape import shape_of, way_of
from launch.planner.step_time import StepTime, step_time
from trainer.config.parallel import Degrees
from trainer.config.run import RunConfig
from trainer.models.registry import cost_of
from trainer.plan.activations import activations
from trainer.plan.batch import BatchPlan, plan_batch
from trainer.plan.counting import count_parameters
from trainer.plan.gpus import Gpu
from trainer.plan.plan import Plan
from trainer.plan.sharding import effective_stage, resolve_precision

EFFICIENCY = (
    1.4  # of training's matrices over the measured rate, which is that of small ones; masked scores cost nothing
)
PASSES = 5  # times that each kept value is written or read, forward and backward
BANDWIDTH = 3.4e9  # bytes per second of one core
STEP_SECONDS = 0.004  # of one optimizer step, whatever its size
START_SECONDS = 3.0
LEAST_REPEATS = 200  # of a product that takes some 30 microseconds


def step_on_gpus(config: RunConfig, degrees: Degrees, batch: BatchPlan, gpu: Gpu, *, ranks_per_node: int) -> StepTime:
    """Estimate one optimizer step of a run whose vocabulary is known, as it is configured, on GPUs of one kind."""
    precision = resolve_precision(config.precision, gpu=True)
    stage = effective_stage(config, replicas=degrees.data * degrees.sequence, precision=precision)
    way = way_of(config, degrees, batch, zero=stage, ranks_per_node=ranks_per_node)
    return step_time(shape_of(config.model), way, gpu, count_parameters(config.model).total, rates_of(gpu))


def seconds_on_gpus(config: RunConfig, plan: Plan, gpu: Gpu, *, ranks: int, sharing: int) -> float:
    """Estimate the wall-clock seconds of a run on GPUs of this machine, each shared by so many ranks that are busy too.

    Kernels of all take turns; what is no kernel of its own goes on beside those of the others.
    """
    batch = plan_batch(plan.tokens_per_step, config.model.context_length, plan.degrees.data, plan.micro_batch)
    step = step_on_gpus(config, plan.degrees, batch, gpu, ranks_per_node=ranks)
    busy = step.total - step.other
    return START_SECONDS + plan.steps * max(step.total, sharing * busy)


@cache
def matrix_rate() -> float:
    """Measure this machine's float32 matrix rate on one core, in FLOP/s."""
    a = np.ones((128, 128), np.float32)  # small enough that BLAS takes one thread
    best, repeats, until = 0.0, 0, time.perf_counter() + 0.2
    while repeats < LEAST_REPEATS or time.perf_counter() < until:  # on a crowded machine the first may take it all
        repeats += 1
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * 128**3 / (time.perf_counter() - began))
    return best


def serial_seconds(config: RunConfig) -> float:
    """Return what the recurrences of one micro-batch take because each token waits for the one before."""
    cost = cost_of(config.model.family)
    mixers = cost.step_shape(config.model).mixers if hasattr(cost, "step_shape") else ()
    kernels = sum(layers * mixer.serial_kernels for mixer, layers in mixers)
    return float(3 * kernels * config.model.context_length * SERIAL_KERNEL)  # the backward pass has twice as many


def seconds_on_cpu(config: RunConfig, plan: Plan, rate: float, *, ranks: int) -> float:
    """Estimate the wall-clock seconds of a run while so many ranks, its own included, share cores nobody else needs."""
    crowd = max(1.0, ranks / available_cores())
    kept = activations(config.model, config.parallel, bytes_per_value=4, gpu=False).layers
    moved = kept + 2 * 4 * config.model.vocab_rows // plan.degrees.tensor
    shared = plan.degrees.tensor * plan.degrees.sequence
    per_token = plan.flops_per_token["total"] / shared / (EFFICIENCY * rate) + moved * PASSES / BANDWIDTH
    micro_batches = plan.steps * (STEP_SECONDS + plan.accumulation * serial_seconds(config))
    return START_SECONDS + crowd * (micro_batches + plan.tokens / plan.degrees.data * per_token)
