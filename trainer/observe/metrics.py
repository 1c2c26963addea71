"""Every metric of a run, declared once: its key, unit, which way is better, how it is printed, where it shows.

docs/run-directory.md has this table, the console prints its columns, and W&B summarises by its directions. To add a
metric, add a line here and pass its value where the row is made (`trainer/loop.py`, `trainer/evaluation/`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TRAIN, EVALUATION = "train", "evaluation"
BOTH = (TRAIN, EVALUATION)


@dataclass(frozen=True)
class Metric:
    """One key of a row of metrics.jsonl."""

    key: str
    unit: str
    rows: tuple[str, ...] = (TRAIN,)  # kinds of rows that have it
    better: Literal["lower", "higher"] | None = None
    format: str | None = None  # of the console, which leaves out what has none
    axis: bool = False  # something that others are drawn over


METRICS = (
    Metric("step", "optimizer steps done", BOTH, axis=True),
    Metric("tokens", "tokens trained on", BOTH, axis=True),
    Metric("eval_set", "name of the held-out set", (EVALUATION,)),
    Metric(
        "loss", "nats per token: mean over the global batch of this step, or over the held-out set", BOTH,
        better="lower", format=".4f",
    ),
    Metric("perplexity", "exp(loss)", (EVALUATION,), better="lower", format=".2f"),
    Metric("bits_per_byte", "of the text of the evaluated tokens", (EVALUATION,), better="lower", format=".4f"),
    Metric("grad_norm", "global norm before clipping", format=".3f"),
    Metric("lr", "learning rate of this step", format=".2e"),
    Metric("epoch", "passes over the training data; in a mixture, over the source that was read most often"),
    Metric(
        "tokens_per_second", "since the previous row, without evaluations and saves", better="higher", format=",.0f"
    ),
    Metric("seconds_left", "of training, from the mean of this attempt's steps so far", format=",.0f"),
    Metric("loss_sem", "standard error of the loss over sequences", (EVALUATION,)),
    Metric("loss_by_position", "losses of equal stretches of the context", (EVALUATION,)),
    Metric("evaluated_tokens", "targets that were evaluated", (EVALUATION,)),
    Metric("evaluated_bytes", "of their text, see data.md, Batches", (EVALUATION,)),
)  # fmt: skip
AXES = tuple(metric.key for metric in METRICS if metric.axis)
COLUMNS = {metric.key: metric.format for metric in METRICS if metric.format is not None}
