"""The ledger: one append-only JSON line for each evaluated point of each run.

It is the only thing that laws are fitted to. Nothing parses logs. A row says everything that a fit, a report
or a reader a year later needs: what was trained, on what, how far, at which cost, and what came out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict

LEDGER_FORMAT = 1


class LedgerRow(BaseModel):
    """One evaluated point. Losses are in nats per token, FLOPs are training FLOPs of the whole run so far."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = LEDGER_FORMAT
    cell: str  # hash of everything that determines the result
    name: str  # human name, unique within the sweep
    run_dir: str
    status: Literal["done", "diverged"] = "done"
    config_hash: str
    git_revision: str | None = None
    time: str  # ISO 8601, UTC

    family: str
    d_model: int
    n_layers: int
    n_heads: int
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
    tokens_per_step: int
    flops_exact: float  # forward + backward including attention and head
    flops_6nd_body: float  # 6 * params_body * tokens
    flops_6nd_head: float  # 6 * (params_body + vocab_size * d_model) * tokens
    flops_6nd_total: float  # 6 * params_total * tokens

    eval_set: str
    loss: float
    loss_sem: float | None = None  # standard error of the mean over evaluated sequences
    perplexity: float
    bits_per_byte: float | None = None
    loss_by_position: list[float] = []
    train_loss: float | None = None

    lr: float
    schedule: str
    seed: int
    trunk: str | None = None  # the cell whose beginning this one shares, for cooldown branches
    layout: str  # for instance "data=2 tensor=1 sequence=1 zero=1"
    tokens_per_second: float | None = None
    seconds: float | None = None
    skipped_steps: list[list[int]] = []  # stretches of the data order that were left out by hand
    tokenizer_hash: str
    data_hash: str


def append(path: Path, rows: list[LedgerRow]) -> None:
    """Append the rows of one run in a single write and force it to disk: a killed sweep loses no finished point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row.model_dump(), ensure_ascii=False) + "\n" for row in rows)
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
    """Yield the rows of a ledger. A torn last line (the machine died while writing) is skipped."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):
                return
            yield json.loads(line)
