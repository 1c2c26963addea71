"""From runs that have ended, well or badly, to rows of the ledger."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from launch.run.run_state import divergence_of, failure_of
from launch.scaling.table.oddities import chance
from launch.sweep.ledger import ledger
from launch.sweep.ledger.ledger import LedgerRow
from trainer.contract.plain_json import DamagedFileError, read_object, rows_of
from trainer.contract.run_dir import RunDir, Status, utc_now
from trainer.plan.plan import Plan

if TYPE_CHECKING:
    from launch.sweep.execute.run import CellProgress


class Evaluated(BaseModel):
    """What a run's last evaluation on one set gave, as `trainer.evaluation.perplexity` wrote it."""

    eval_set: str
    loss: float | None  # None: it was not finite
    loss_sem: float | None
    perplexity: float | None
    bits_per_byte: float | None
    loss_by_position: list[float | None]


class Came(BaseModel):
    """How far a run came: result.json of one that is done, the event of one that diverged."""

    step: int = 0
    tokens: int = 0
    train_loss: float | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    unique_tokens: int = 0
    unigram_entropy: float | None = None
    tokenizer_hash: str = ""
    data_hash: str = ""
    skipped_steps: list[list[int]] = []


class Result(Came):
    """result.json."""

    evaluations: list[Evaluated]


BADLY = {Status.DIVERGED: divergence_of, Status.FAILED: failure_of}


def collect(cells: Sequence[CellProgress], ledger_path: Path) -> list[str]:
    """Append how every cell ended, where the ledger does not say so yet, and return the ids that were added.

    A run that is done and whose result cannot be read is taken for one that is not: the next start evaluates it again.
    """
    known = ledger.latest(ledger_path)
    added = []
    for progress in cells:
        if progress.cell.check_of is not None:
            continue
        rows = _new_rows(progress, known.get(progress.cell.id, {}))
        if rows:
            ledger.append(ledger_path, rows)
            added.append(progress.cell.id)
    return added


def _new_rows(progress: CellProgress, known: dict[str, Any]) -> list[LedgerRow]:
    status = progress.run_dir.read_status()
    rows: list[LedgerRow] = []
    if status is Status.DONE and known.get("status", "") != "done":
        try:
            rows = _done_rows(progress)
        except (ValidationError, FileNotFoundError) as error:
            print(f"warning: {progress.cell.id} is evaluated again: result.json: {error}", file=sys.stderr)
            progress.run_dir.write_status(Status.PENDING)
    elif status in BADLY:
        rows = [_badly(progress, status)]
    if rows and all(known.get(key) == getattr(rows[-1], key) for key in ("status", "step", "reason")):
        return []
    return rows


def _done_rows(progress: CellProgress) -> list[LedgerRow]:
    """Return a row for each set that the finished run was evaluated on."""
    result = Result.model_validate_json(progress.run_dir.result.read_bytes())
    vocabulary = progress.cell.config.model.vocab_rows
    rows = []
    for evaluation in result.evaluations:
        values = evaluation.model_dump()
        values["loss_by_position"] = [loss for loss in evaluation.loss_by_position if loss is not None]
        if evaluation.loss is None:
            rows.append(_row(progress, result, **values, status="diverged", reason="its evaluation gave no number"))
        else:
            rows.append(
                _row(progress, result, **values, reason=chance(evaluation.loss, vocabulary, result.unigram_entropy))
            )
    return rows


def _badly(progress: CellProgress, status: Status) -> LedgerRow:
    """Return the row of a run that ended badly: how far it came, its last finite loss, and why it ended."""
    events = [row for row in rows_of(progress.run_dir.events, "event") if row["event"] in ("diverged", "started")]
    found: dict[str, Any] = {"train_loss": None}
    for event in events:
        found.update({key: value for key, value in event.items() if key in Came.model_fields})
        found["unique_tokens"] = event.get("train_tokens", found.get("unique_tokens", 0))
    steps = [
        row
        for row in rows_of(progress.run_dir.metrics, "kind", "step", "loss")
        if row["kind"] == "train" and isinstance(row["step"], int)
    ]
    finite = [row["loss"] for row in steps if row["loss"] is not None]
    if found["train_loss"] is None and finite:
        found["train_loss"] = finite[-1]
    try:
        came = Came.model_validate(found)
    except ValidationError:  # a damaged event
        came = Came()
    step = max([came.step, *(row["step"] for row in steps[-1:])])
    came = came.model_copy(update={"step": step, "tokens": step * progress.plan.tokens_per_step})
    reason = BADLY[status](progress.run_dir)
    return _row(progress, came, status=status.value, reason=reason, eval_set=ledger.NO_SET, loss=None)


def _row(progress: CellProgress, came: Came, **more: object) -> LedgerRow:
    cell, plan, config = progress.cell, _plan(progress), progress.cell.config
    model, counts, tokens = config.model, plan.parameters, came.tokens
    head_params = model.vocab_rows * model.d_model
    return LedgerRow(
        cell=cell.id,
        name=cell.id,
        run_dir=str(progress.run_dir.root),
        config_hash=plan.config_hash,
        git_revision=_revision(progress.run_dir),
        time=utc_now(),
        family=model.family,
        d_model=model.d_model,
        n_layers=model.n_layers,
        n_heads=model.shape()["n_heads"],
        vocab_size=model.vocab_rows,
        context_length=model.context_length,
        params_embedding=counts["embedding"],
        params_position=counts["position"],
        params_body=counts["body"],
        params_head=counts["head"],
        params_total=counts["total"],
        tokens_per_step=plan.tokens_per_step,
        flops_exact=float(plan.flops_per_token["total"]) * tokens,
        flops_6nd_body=6.0 * counts["body"] * tokens,
        flops_6nd_head=6.0 * (counts["body"] + head_params) * tokens,
        flops_6nd_total=6.0 * counts["total"] * tokens,
        lr=plan.lr,
        schedule=config.schedule.kind,
        seed=config.seed,
        trunk=cell.branch.trunk if cell.branch else None,
        layout=plan.layout,
        **came.model_dump(include=set(Came.model_fields)),
        **more,
    )


def _plan(progress: CellProgress) -> Plan:
    """Return the plan that the ranks made; the launcher's own where they made none that can be read."""
    try:
        return Plan.from_json(progress.run_dir.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return progress.plan


def _revision(run_dir: RunDir) -> str | None:
    try:
        return read_object(run_dir.run).get("git_revision")
    except (DamagedFileError, FileNotFoundError):
        return None


def loss_curve(run_dir: RunDir) -> dict[int, float]:
    """Return the training loss by step, without the steps whose loss was no number."""
    rows = rows_of(run_dir.metrics, "kind", "step", "loss")
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train" and row["loss"] is not None}
