"""From runs that have ended, well or badly, to rows of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from launch.run.newest_step import rows_backwards, training_rows
from launch.run.run_state import divergence_of, failure_of
from launch.scaling.table.oddities import chance
from launch.sweep.cells.planned import PlannedCell
from launch.sweep.ledger import ledger
from launch.sweep.ledger.ledger import LedgerRow
from trainer.contract.plain_json import DamagedFileError, read_object, rows_of
from trainer.contract.run_dir import RunDir, Status, utc_now
from trainer.observe.metrics import COSTS
from trainer.plan.learning_rate import lr_source, recipe_source
from trainer.plan.plan import Plan


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
    gpu_seconds: float | None = None
    core_seconds: float | None = None
    cost: float | None = None
    energy_joules: float | None = None
    unique_tokens: int = 0
    unigram_entropy: float | None = None
    tokenizer_hash: str = ""
    data_hash: str = ""
    skipped_steps: list[list[int]] = []


class Result(Came):
    """result.json."""

    evaluations: list[Evaluated]


BADLY = {Status.DIVERGED: divergence_of, Status.FAILED: failure_of}


def collect(cells: Sequence[PlannedCell], ledger_path: Path) -> None:
    """Append how these cells ended, where the ledger does not say so yet. The result of one that is done is readable.

    Layout checks have no rows.
    """
    known = ledger.latest(ledger_path)
    for one in cells:
        if rows := _new_rows(one, known.get(one.id, {})):
            ledger.append(ledger_path, rows)


def result_problem(run_dir: RunDir) -> str | None:
    """Return why the result of a run cannot be taken into the ledger, or None. A run with a problem is evaluated again.

    Reads result.json.
    """
    try:
        _result(run_dir)
    except (ValidationError, FileNotFoundError) as error:
        return str(error)
    return None


def _result(run_dir: RunDir) -> Result:
    return Result.model_validate_json(run_dir.result.read_bytes())


def _new_rows(one: PlannedCell, known: dict[str, Any]) -> list[LedgerRow]:
    status = one.run_dir.read_status()
    rows: list[LedgerRow] = []
    if status is Status.DONE and known.get("status", "") != "done":
        rows = _done_rows(one)
    elif status in BADLY:
        rows = [_badly(one, status)]
    if rows and all(known.get(key) == getattr(rows[-1], key) for key in ("status", "step", "reason")):
        return []
    return rows


def _done_rows(one: PlannedCell) -> list[LedgerRow]:
    """Return a row for each set that the finished run was evaluated on."""
    result = _result(one.run_dir)
    vocabulary = one.cell.config.model.vocab_rows
    rows = []
    for evaluation in result.evaluations:
        values = evaluation.model_dump()
        values["loss_by_position"] = [loss for loss in evaluation.loss_by_position if loss is not None]
        if evaluation.loss is None:
            rows.append(_row(one, result, **values, status="diverged", reason="its evaluation gave no number"))
        else:
            rows.append(_row(one, result, **values, reason=chance(evaluation.loss, vocabulary, result.unigram_entropy)))
    return rows


def _badly(one: PlannedCell, status: Status) -> LedgerRow:
    """Return the row of a run that ended badly: how far it came, its last finite loss, and why it ended."""
    found: dict[str, Any] = {"train_loss": None}
    for event in _last_start_and_end(one.run_dir):
        found.update({key: value for key, value in event.items() if key in Came.model_fields})
        found["unique_tokens"] = event.get("train_tokens", found.get("unique_tokens", 0))
    steps = training_rows(one.run_dir)
    newest: dict[str, Any] = next(steps, {"step": 0, "loss": None})
    found.update({key: newest[key] for key in COSTS if key not in found and key in newest})
    if found["train_loss"] is None:
        found["train_loss"] = next((row["loss"] for row in chain([newest], steps) if row["loss"] is not None), None)
    try:
        came = Came.model_validate(found)
    except ValidationError:  # a damaged event
        came = Came()
    step = max(came.step, newest["step"])
    came = came.model_copy(update={"step": step, "tokens": one.plan.tokens_before(step)})
    reason = BADLY[status](one.run_dir)
    return _row(one, came, status=status.value, reason=reason, eval_set=ledger.NO_SET, loss=None)


def _last_start_and_end(run_dir: RunDir) -> list[dict[str, Any]]:
    """Return how the newest attempt started, and how it diverged where it did, in order, from the end of the record."""
    found: list[dict[str, Any]] = []
    for row in rows_backwards(run_dir.events):
        if row.get("event") in ("diverged", "started"):
            found.insert(0, row)
        if row.get("event") == "started":
            break
    return found


def _row(one: PlannedCell, came: Came, **more: object) -> LedgerRow:
    cell, plan, config = one.cell, _plan(one), one.cell.config
    model, counts, tokens = config.model, plan.parameters, came.tokens
    head_params = model.vocab_rows * model.d_model
    return LedgerRow(
        cell=cell.id,
        name=cell.id,
        run_dir=str(one.run_dir.root),
        settings=cell.settings,
        config_hash=plan.config_hash,
        git_revision=_revision(one.run_dir),
        time=utc_now(),
        family=model.family,
        kind=model.kind,
        d_model=model.d_model,
        n_layers=model.n_layers,
        shape=model.shape(),
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
        lr_by=lr_source(config.optim),
        batch_by=recipe_source(config.optim, "batch"),
        weight_decay=config.optim.weight_decay,
        weight_decay_by=recipe_source(config.optim, "weight_decay"),
        purpose=cell.purpose,
        knob=cell.knob,
        schedule=config.schedule.kind,
        seed=config.seed,
        order_seed=config.order_seed,
        trunk=cell.branch.trunk if cell.branch else None,
        layout=plan.layout,
        **came.model_dump(include=set(Came.model_fields)),
        **more,
    )


def _plan(one: PlannedCell) -> Plan:
    """Return the plan that the ranks made; the launcher's own where they made none that can be read."""
    try:
        return Plan.from_json(one.run_dir.plan.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return one.plan


def _revision(run_dir: RunDir) -> str | None:
    try:
        return read_object(run_dir.run).get("git_revision")
    except (DamagedFileError, FileNotFoundError):
        return None


def loss_curve(run_dir: RunDir) -> dict[int, float]:
    """Return the training loss by step, without the steps whose loss was no number."""
    rows = rows_of(run_dir.metrics, "kind", "step", "loss")
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train" and row["loss"] is not None}
