"""From finished runs to rows of the ledger."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launch.sweep import ledger
from launch.sweep.cell import Cell
from launch.sweep.ledger import LedgerRow
from trainer.config.load import load_run
from trainer.config.plan import Plan
from trainer.run_dir import RunDir, Status, read_json_lines, utc_now


def rows_of(cell: Cell, run_dir: RunDir) -> list[LedgerRow]:
    """Return a row for each set that the finished run was evaluated on."""
    result = json.loads(run_dir.result.read_text())
    plan = Plan.from_json(run_dir.plan.read_text())
    return [_row(cell, run_dir, plan, result, evaluation) for evaluation in result["evaluations"]]


def _row(cell: Cell, run_dir: RunDir, plan: Plan, result: dict[str, Any], evaluation: dict[str, Any]) -> LedgerRow:
    config = load_run(run_dir.config)
    model, counts, tokens = config.model, plan.parameters, result["tokens"]
    head_params = model.vocab_rows * model.d_model
    return LedgerRow(
        cell=cell.id,
        name=cell.id,
        run_dir=str(run_dir.root),
        config_hash=plan.config_hash,
        git_revision=json.loads(run_dir.run.read_text())["git_revision"],
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
        step=result["step"],
        tokens=tokens,
        unique_tokens=result["unique_tokens"],
        tokens_per_step=plan.tokens_per_step,
        flops_exact=float(plan.flops_per_token["total"]) * tokens,
        flops_6nd_body=6.0 * counts["body"] * tokens,
        flops_6nd_head=6.0 * (counts["body"] + head_params) * tokens,
        flops_6nd_total=6.0 * counts["total"] * tokens,
        **{key: evaluation[key] for key in EVALUATED},
        train_loss=result["train_loss"],
        lr=plan.lr,
        schedule=config.schedule.kind,
        seed=config.seed,
        trunk=cell.branch.trunk if cell.branch else None,
        layout=plan.layout,
        tokens_per_second=result["tokens_per_second"],
        seconds=result["seconds"],
        skipped_steps=result["skipped_steps"],
        tokenizer_hash=result["tokenizer_hash"],
        data_hash=result["data_hash"],
    )


EVALUATED = ("eval_set", "loss", "loss_sem", "perplexity", "bits_per_byte", "loss_by_position")


def collect(cells: list[Cell], directory: Path, ledger_path: Path) -> list[str]:
    """Append every finished cell that the ledger does not have yet, and return the ids that were added."""
    have = {row["cell"] for row in ledger.read(ledger_path)}
    added = []
    for cell in cells:
        run_dir = RunDir(directory / cell.id)
        if cell.check_of is None and cell.id not in have and run_dir.read_status() is Status.DONE:
            ledger.append(ledger_path, rows_of(cell, run_dir))
            added.append(cell.id)
    return added


def loss_curve(run_dir: RunDir) -> dict[int, float]:
    """Return the training loss by step."""
    return {row["step"]: row["loss"] for row in read_json_lines(run_dir.metrics) if row["kind"] == "train"}
