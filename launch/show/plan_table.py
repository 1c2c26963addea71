"""The plan as a table, for one run or for all cells of a sweep."""

from __future__ import annotations

from rich.table import Table

from launch.show.text import count, flops_text, size
from trainer.contract.durations import duration
from trainer.plan.plan import Plan

NARROW = 110  # characters; a narrower terminal gets fewer columns
LEFT = ("cell", "layout")
MEANING = {
    "head": "",
    "sequences": " per step (data ranks x micro-batch x accumulation)",
    "layout": " (data, tensor, sequence ranks, ZeRO stage)",
}


def sweep_table(plans: dict[str, Plan], seconds: dict[str, float], width: int) -> Table:
    """Return one line for each cell. Memory is of one rank; time is an estimate for this machine."""
    table = Table(title="Plan", title_justify="left", box=None, pad_edge=False, caption_justify="left")
    columns = {cell: _columns(plan, seconds.get(cell), wide=width >= NARROW) for cell, plan in plans.items()}
    table.caption = _shared(columns)
    for name in ("cell", *next(iter(columns.values()))):
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=name != "cell", overflow="fold")
    for cell, values in columns.items():
        table.add_row(cell, *values.values())
    return table


def _shared(columns: dict[str, dict[str, str]]) -> str | None:
    """Take out the columns that say the same of every cell, and return them as one line with their meaning."""
    said = []
    for name, meaning in MEANING.items():
        values = {row[name] for row in columns.values() if name in row}
        if len(values) == 1 and len(columns) > 1:
            for row in columns.values():
                del row[name]
            said.append(f"{name} {values.pop()}{meaning}")
    return f"every cell: {'; '.join(said)}" if said else None


def _columns(plan: Plan, seconds: float | None, *, wide: bool) -> dict[str, str]:
    degrees = plan.degrees
    embedding = plan.parameters["embedding"] + plan.parameters["position"]
    columns = {
        "body": count(plan.parameters["body"]),
        "embedding": count(embedding),
        "head": count(plan.parameters["head"]) if plan.parameters["head"] else "tied",
        "tokens": count(plan.tokens),
        "FLOPs": flops_text(plan.flops),
        "steps": str(plan.steps),
        "sequences": f"{plan.sequences_per_step} = {degrees.data}x{plan.micro_batch}x{plan.accumulation}",
        "layout": f"d{degrees.data} t{degrees.tensor} s{degrees.sequence} zero{plan.zero_stage}",
        "lr": f"{plan.lr:.2g}",
        "memory": size(plan.memory_bytes["total"]),
        "time": duration(seconds) if seconds is not None else "",
    }
    if wide:
        return columns
    return {name: text for name, text in columns.items() if name not in ("head", "sequences", "embedding", "steps")}


def run_table(plan: Plan, seconds: float | None) -> Table:
    """Return the plan of one run, part by part."""
    table = Table(title=f"Plan of {plan.name}", title_justify="left", box=None, pad_edge=False, show_header=False)
    table.add_column("what", style="bold")
    table.add_column("value")
    degrees = plan.degrees
    rows = {
        "world": f"{degrees.world} ranks: {degrees}, ZeRO {plan.zero_stage}, {plan.precision}"
        f"{f', compiled {plan.compiled}' if plan.compiled else ''}",
        "parameters": _parts(plan.parameters, count),
        "tokens": f"{count(plan.tokens)} in {plan.steps} steps of {plan.tokens_per_step} tokens",
        "batch": f"{plan.sequences_per_step} sequences = {degrees.data} data ranks x micro-batch {plan.micro_batch} "
        f"x accumulation {plan.accumulation}",
        "FLOPs": f"{plan.flops:.3g} ({_parts(plan.flops_per_token, count)} per token)",
        "learning rate": f"{plan.lr:.3g}, warm-up {plan.warmup_steps} steps",
        "memory of a rank": _parts(plan.memory_bytes, size),
    }
    if plan.batch_warmup:
        stages = ", ".join(f"{batch} for {steps} steps" for batch, steps in plan.batch_warmup)
        rows["batch warm-up"] = f"sequences: {stages}, then {plan.sequences_per_step}"
    if plan.epochs is not None:
        rows["epochs"] = f"{plan.epochs:.2f} passes over the training set"
    if seconds is not None:
        rows["expected time"] = f"{duration(seconds)} on this machine, when nothing else needs its cores"
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _parts(values: dict[str, int], shown: object) -> str:
    assert callable(shown)
    return ", ".join(f"{name} {shown(value)}" for name, value in values.items() if value)
