"""Every metric of a run, declared once: its key, unit, which way is better, how it is printed, where it shows.

docs/run-directory.md has this table, the console and `escala watch` print its columns, and W&B summarises by its
directions. To add a metric, add a line here and pass its value where the row is made (`trainer/loop/rows.py`,
`trainer/evaluation/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TRAIN, EVALUATION = "train", "evaluation"
BOTH = (TRAIN, EVALUATION)
CONSOLE, WATCH = "console", "watch"


@dataclass(frozen=True)
class Metric:
    """One key of a row of metrics.jsonl."""

    key: str
    unit: str
    rows: tuple[str, ...] = (TRAIN,)  # kinds of rows that have it
    better: Literal["lower", "higher"] | None = None
    format: str = ""
    shows: tuple[str, ...] = ()  # beside the record and W&B, which have all
    axis: bool = False  # something that others are drawn over


EVERYWHERE = (CONSOLE, WATCH)
METRICS = (
    Metric("step", "optimizer steps done", BOTH, format="d", shows=(WATCH,), axis=True),
    Metric("tokens", "tokens trained on", BOTH, format=",d", axis=True),
    Metric("eval_set", "name of the held-out set", (EVALUATION,)),
    Metric(
        "loss", "nats per token: mean over the global batch of this step, or over the held-out set", BOTH,
        "lower", ".4f", EVERYWHERE,
    ),
    Metric("perplexity", "exp(loss)", (EVALUATION,), "lower", ".2f", (CONSOLE,)),
    Metric("bits_per_byte", "of the text of the evaluated tokens", (EVALUATION,), "lower", ".4f", (CONSOLE,)),
    Metric("grad_norm", "global norm before clipping", format=".3f", shows=(CONSOLE,)),
    Metric(
        "grad_norms", "before clipping, by kind of parameter: matrix, embedding, head, vector (`tracking.norms_every`)"
    ),
    Metric("param_norms", "after the step, by kind of parameter"),
    Metric("update_norms", "what the step changed, by kind of parameter"),
    Metric("activation_rms", "root mean square of each block's output, by its number (`tracking.activations`)"),
    Metric(
        "off", "standard deviations of the loss above its expected curve, see watching.md", format="+.1f",
        shows=EVERYWHERE,
    ),
    Metric("norm_off", "standard deviations of the growth of the matrices' norm above the expected one"),
    Metric("lr", "learning rate of this step", format=".2e", shows=(CONSOLE,)),
    Metric("epoch", "passes over the training data; in a mixture, over the source that was read most often"),
    Metric(
        "tokens_per_second", "since the previous row, without evaluations and saves", better="higher", format=",.0f",
        shows=EVERYWHERE,
    ),
    Metric(
        "mfu", "model FLOP/s since the previous row, over the peak: the data sheet's of a GPU, the measured of a CPU",
        better="higher", format=".1%", shows=EVERYWHERE,
    ),
    Metric("step_seconds", "median of a step since the previous row, on the first rank", better="lower", format=".3f"),
    Metric("step_seconds_p95", "95th percentile of the same steps", better="lower", format=".3f"),
    Metric("data_seconds", "mean wait for the data of a step since the previous row", better="lower", format=".3f"),
    Metric(
        "rank_seconds", "median over ranks: the wait for data and the first forward pass of a step, before ranks meet",
        better="lower", format=".3f",
    ),
    Metric("slowest_rank", "the rank that takes longest for the same"),
    Metric("slowest_rank_seconds", "how long it takes", better="lower", format=".3f"),
    Metric("slowest_rank_wait", "how much of that is its wait for data", better="lower", format=".3f"),
    Metric("compiled_graphs", "graphs that torch.compile has made in this attempt, on the first rank", better="lower"),
    Metric(
        "memory_peak", "bytes of the first rank in this attempt: the GPU's allocator, on a CPU the process",
        better="lower", format=",d",
    ),
    Metric(
        "skipped", "steps that this attempt skipped: loss or gradient not finite, or a spike under `guard.spike: skip`",
        better="lower",
    ),
    Metric("rollbacks", "times that the run went back for spikes; left out until it did", BOTH),
    Metric(
        "seconds_left", "of training, from the mean of this attempt's steps so far", format=",.0f", shows=EVERYWHERE
    ),
    Metric("wall_seconds", "of all attempts until now, without the time between them", format=",.0f"),
    Metric("gpu_seconds", "wall seconds x GPUs of all ranks, of all attempts", format=",.0f", shows=(WATCH,)),
    Metric("core_seconds", "wall seconds x cores of all ranks, where they have no GPU", format=",.0f", shows=(WATCH,)),
    Metric("cost", "of these, at the cluster's `gpu_price` at the time", format=",.2f", shows=(WATCH,)),
    Metric(
        "energy_joules", "of all attempts where the machine tells: of the first GPU x ranks, or host x nodes",
        format=",.0f", shows=(WATCH,),
    ),
    Metric("goodput", "share of the wall seconds that trained steps that count", better="higher", format=".1%"),
    Metric("train_seconds", "of the wall seconds: steps, without the wait for data"),
    Metric("start_seconds", "of the wall seconds: from the start of the process to the first step"),
    Metric("wait_seconds", "of the wall seconds: waiting for data"),
    Metric("save_seconds", "of the wall seconds: steps stood still for a checkpoint"),
    Metric("evaluation_seconds", "of the wall seconds: evaluations"),
    Metric("lost_seconds", "of the wall seconds: steps that a restart took back"),
    Metric("loss_sem", "standard error of the loss over sequences", (EVALUATION,)),
    Metric("loss_by_position", "losses of equal stretches of the context", (EVALUATION,)),
    Metric("evaluated_tokens", "targets that were evaluated", (EVALUATION,)),
    Metric("evaluated_bytes", "of their text, see data.md, Batches", (EVALUATION,)),
)  # fmt: skip
COSTS = ("gpu_seconds", "core_seconds", "cost", "energy_joules")
PRICE = "ESCALA_GPU_PRICE"  # the variable that tells ranks the `gpu_price` of the cluster file
AXES = tuple(metric.key for metric in METRICS if metric.axis)
COLUMNS = {metric.key: metric.format for metric in METRICS if CONSOLE in metric.shows}
FORMATS = {metric.key: metric.format for metric in METRICS}
