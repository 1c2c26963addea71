"""The ledger: one append-only JSON line for each evaluated point of each run, and one for each run that ended badly.

It is the only thing that laws are fitted to. Nothing parses logs. A row says everything that a fit, a report
or a reader a year later needs: what was trained, on what, how far, at which cost, and what came out. The last row of
a cell says how it stands: one that diverged or failed, was started again and came to its end has a later row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict

from trainer.contract.plain_json import read_lines, to_json

LEDGER_FORMAT = 1
NO_SET = "none"  # the evaluation set of a run that ended badly


class LedgerRow(BaseModel):
    """One evaluated point, or how a run ended badly, without a loss.

    Losses are in nats per token, FLOPs are training FLOPs of the whole run so far.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = LEDGER_FORMAT
    cell: str  # hash of everything that determines the result
    name: str  # human name, unique within the sweep
    run_dir: str
    settings: dict[str, Any] = {}  # what the sweep's file says of this cell; rows of old have none
    status: Literal["done", "diverged", "failed"] = "done"
    purpose: Literal["law", "tuning"] = "law"  # runs of a tuning are left out of laws and comparisons
    knob: str = ""  # that a run of a tuning is for: lr, batch or weight_decay; in rows of old it is lr
    lr_by: Literal["recipe", "rule", "by hand", ""] = ""  # how the learning rate came about; rows of old do not say
    batch_by: Literal["recipe", "by hand", ""] = ""  # the same of the batch
    weight_decay: float | None = None  # rows of old have none
    weight_decay_by: Literal["recipe", "by hand", ""] = ""
    reason: str = ""  # why it ended badly, or what is wrong with its result
    config_hash: str
    git_revision: str | None = None
    time: str  # ISO 8601, UTC

    family: str
    kind: str = ""  # what its curve is called: the family, or the mixers of its blocks; rows of old have none
    d_model: int
    n_layers: int
    shape: dict[str, int] = {}  # as the family states it, heads where it has any; rows of old have n_heads
    vocab_size: int
    context_length: int
    params_embedding: int  # token embedding table
    params_position: int  # learned position table, 0 with rotary
    params_body: int  # everything else but the head: Kaplan's non-embedding N
    params_head: int  # output matrix of its own; 0 when tied to the embedding
    params_total: int  # distinct parameters

    step: int
    tokens: int  # D, tokens trained on up to this point
    unique_tokens: int  # tokens of the training set that were available
    unigram_entropy: float | None = None  # of these, nats a token; None where the set does not say it
    tokens_per_step: int
    flops_exact: float  # forward + backward including attention and head
    flops_6nd_body: float  # 6 * params_body * tokens
    flops_6nd_head: float  # 6 * (params_body + vocab_size * d_model) * tokens
    flops_6nd_total: float  # 6 * params_total * tokens

    eval_set: str
    loss: float | None
    loss_sem: float | None = None  # standard error of the mean over evaluated sequences
    perplexity: float | None = None
    bits_per_byte: float | None = None
    loss_by_position: list[float] = []
    train_loss: float | None = None  # the last one that was a finite number

    lr: float
    schedule: str
    seed: int
    order_seed: int | None = None  # of the data order; rows of old have none: it was the seed
    trunk: str | None = None  # the cell whose beginning this one shares, for cooldown branches
    layout: str  # for instance "data=2 tensor=1 sequence=1 zero=1"
    tokens_per_second: float | None = None
    seconds: float | None = None  # of the last attempt
    gpu_seconds: float | None = None  # of all attempts, what restarts lost included; None on CPUs, and in rows of old
    core_seconds: float | None = None  # the same of the cores of CPUs
    cost: float | None = None  # of these, at the cluster's gpu_price; None where it says none
    energy_joules: float | None = None  # where the machine tells
    skipped_steps: list[list[int]] = []  # stretches of the data order that were left out by hand
    tokenizer_hash: str  # empty where a run failed before it opened its data
    data_hash: str


def append(path: Path, rows: list[LedgerRow]) -> None:
    """Append the rows of one run in a single write and force it to disk: a killed sweep loses no finished point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(to_json(row.model_dump()) + "\n" for row in rows)
    with path.open("ab+") as ledger:
        _drop_torn_line(ledger)
        ledger.write(lines.encode())
        ledger.flush()
        os.fsync(ledger.fileno())


def _drop_torn_line(ledger: BinaryIO) -> None:
    """Cut off a last line without its end: the machine died while it was written, so its run is collected again."""
    ledger.seek(0)
    content = ledger.read()
    if content and not content.endswith(b"\n"):
        ledger.truncate(content.rfind(b"\n") + 1)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a ledger. Damaged lines are skipped: the runs that they were made from have them collected."""
    return (row for row in read_lines(path).rows if {"cell", "eval_set"} <= row.keys())


def latest(path: Path) -> dict[str, dict[str, Any]]:
    """Return the last row of each cell, which says how it stands."""
    return {row["cell"]: row for row in read(path)}
