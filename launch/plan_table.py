"""The plan as a table, for one run or for all cells of a sweep."""

from __future__ import annotations

from rich.table import Table

from launch.text import count, duration, size
from trainer.config.plan import Plan

SWEEP_COLUMNS = ("cell", "body", "embed", "head", "tokens", "FLOPs", "steps", "batch", "layout", "lr", "memory", "time")


def sweep_table(plans: dict[str, Plan], seconds: dict[str, float]) -> Table:
    """Return one line for each cell. Memory is of one rank; time is an estimate for this machine."""
    table = Table(title="Plan", title_justify="left", box=None, pad_edge=False)
    for name in SWEEP_COLUMNS:
        table.add_column(name, justify="left" if name in ("cell", "layout") else "right", no_wrap=True)
    for cell, plan in plans.items():
        degrees = plan.degrees
        table.add_row(
            cell,
            count(plan.parameters["body"]),
            count(plan.parameters["embedding"] + plan.parameters["position"]),
            count(plan.parameters["head"]) if plan.parameters["head"] else "tied",
            count(plan.tokens),
            count(plan.flops),
            str(plan.steps),
            f"{plan.sequences_per_step}={degrees.data}x{plan.micro_batch}x{plan.accumulation}",
            f"d{degrees.data} t{degrees.tensor} s{degrees.sequence} z{plan.zero_stage}",
            f"{plan.lr:.2g}",
            size(plan.memory_bytes["total"]),
            duration(seconds[cell]) if cell in seconds else "",
        )
    return table


def run_table(plan: Plan, seconds: float | None) -> Table:
    """Return the plan of one run, part by part."""
    table = Table(title=f"Plan of {plan.name}", title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column("what", style="bold")
    table.add_column("value")
    degrees = plan.degrees
    rows = {
        "world": f"{degrees.world} ranks: {degrees}, ZeRO {plan.zero_stage}, {plan.precision}",
        "parameters": _parts(plan.parameters, count),
        "tokens": f"{count(plan.tokens)} in {plan.steps} steps of {plan.tokens_per_step} tokens",
        "batch": f"{plan.sequences_per_step} sequences = {degrees.data} data ranks x micro-batch {plan.micro_batch} "
        f"x accumulation {plan.accumulation}",
        "FLOPs": f"{plan.flops:.3g} ({_parts(plan.flops_per_token, count)} per token)",
        "learning rate": f"{plan.lr:.3g}, warm-up {plan.warmup_steps} steps",
        "memory of a rank": _parts(plan.memory_bytes, size),
    }
    if plan.epochs is not None:
        rows["epochs"] = f"{plan.epochs:.2f} passes over the training set"
    if seconds is not None:
        rows["expected time"] = f"{duration(seconds)} on this machine"
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _parts(values: dict[str, int], shown: object) -> str:
    assert callable(shown)
    return ", ".join(f"{name} {shown(value)}" for name, value in values.items() if value)
