"""Out of memory: the plan beside what was measured, and the setting that saves most by the plan's own arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launch.run.newest_step import newest_step
from launch.show.text import size
from launch.watch.evidence import Evidence, newest_logs_of
from trainer.config.load import load_run
from trainer.contract.errors import UserError
from trainer.contract.plain_json import DamagedFileError, read_object, rows_of
from trainer.contract.run_dir import RunDir
from trainer.plan.plan import run_memory, share_out

# Parts of the plan's memory, and the setting that makes each smaller: for a plan that cannot be made again.
SETTINGS = {
    "activations": "parallel.recompute: full, or a smaller batch.micro_batch",
    "logits": "a smaller batch.micro_batch",
    "head": "a smaller batch.micro_batch",
    "working": "a smaller batch.micro_batch",
    "optimizer": "a higher parallel.zero_stage, or parallel.offload: optimizer",
    "gradients": "parallel.zero_stage: 2",
    "widening": "parallel.zero_stage: 2",
    "parameters": "parallel.zero_stage: 3, or a higher parallel.tensor",
    "tied": "a higher parallel.tensor",
    "buffers": "a lower parallel.zero_stage",
}


def memory(run_dir: RunDir, rank: int | None) -> Evidence:
    """Return the plan of a rank's memory, its measured parts and peak, and the setting that would help most."""
    measured = _measured(run_dir, rank)
    try:
        plan = read_object(run_dir.plan, "memory_bytes")
        parts = {str(part): int(n) for part, n in dict(plan["memory_bytes"]).items()}
    except (FileNotFoundError, DamagedFileError, TypeError, ValueError):
        return Evidence(["there is no plan of its memory", *measured], "lower batch.micro_batch")
    total = parts.pop("total", 0)
    details = [f"planned for a rank {size(total)}: {_listed(parts)}", *measured]
    if (best := savings(run_dir, plan, total)) and best[0][1] < total:
        shown = "; ".join(f"{setting} plans {size(planned)}" for setting, planned in best[:3])
        setting, _, value = best[0][0].partition("=")
        return Evidence([*details, f"instead of {size(total)}: {shown}"], f"--set {best[0][0]}", {setting: value})
    largest = max(parts, key=lambda part: parts[part], default="activations")
    return Evidence(details, SETTINGS.get(largest, "lower batch.micro_batch"))


def savings(run_dir: RunDir, plan: Mapping[str, Any], total: int) -> list[tuple[str, int]]:
    """Return settings with the bytes of a rank that the plan would need with each, the smallest first.

    None where the configuration or its plan cannot be read, or does not come to the plan's total.
    """
    try:
        config = load_run(run_dir.config)
        world, micro = int(plan["world"]), int(plan["micro_batch"])
        stage, tensor = int(plan["zero_stage"]), config.parallel.tensor
    except (UserError, OSError, KeyError, TypeError, ValueError):
        return []
    if config.model.vocab_size is None:
        return []
    gpu = next((gpu for gpu in (True, False) if _planned(run_dir, (), world, gpu=gpu) == total), None)
    if gpu is None:
        return []
    changes = [f"batch.micro_batch={micro // 2}"] if micro > 1 else []
    changes += [f"parallel.recompute={how}" for how in ("selective", "full") if how != config.parallel.recompute]
    changes += [f"parallel.zero_stage={higher}" for higher in range(stage + 1, 4)]
    changes += [f"parallel.tensor={2 * tensor}"] if world % (2 * tensor) == 0 else []
    found = [(change, planned) for change in changes if (planned := _planned(run_dir, (change,), world, gpu=gpu))]
    return sorted(found, key=lambda item: item[1])


def _planned(run_dir: RunDir, changes: tuple[str, ...], world: int, *, gpu: bool) -> int | None:
    """Return the bytes of a rank with changed settings; None where they do not fit one another."""
    try:
        config = load_run(run_dir.config, changes)
        return run_memory(config, *share_out(config, world, gpu=gpu), gpu=gpu).total
    except UserError:
        return None


def _measured(run_dir: RunDir, rank: int | None) -> list[str]:
    """Return what ranks measured: the failing one in its last moment, else the first after its first steps."""
    logs, lines = newest_logs_of(run_dir), list[str]()
    for path in sorted(logs.glob("memory_*.json")) if logs is not None else []:
        try:
            row = read_object(path, "rank", "memory_bytes")
            parts = {str(k): int(n) for k, n in dict(row["memory_bytes"]).items()}
        except (FileNotFoundError, DamagedFileError, TypeError, ValueError):
            continue
        if rank in (None, row["rank"]):
            lines.append(f"measured peak {size(parts.pop('peak', 0))} on rank {row['rank']}: {_listed(parts)}")
    if lines:
        return lines
    events = [row for row in rows_of(run_dir.events, "event", "memory_bytes") if row["event"] == "memory_measured"]
    peak = (newest_step(run_dir) or {}).get("memory_peak")
    shown = f"measured peak {size(peak)}" if isinstance(peak, int | float) else "no step was measured"
    if events and isinstance(events[-1]["memory_bytes"], dict):
        parts = {str(k): int(n) for k, n in events[-1]["memory_bytes"].items() if k != "peak" and isinstance(n, int)}
        shown += f" on the first rank: {_listed(parts)}"
    return [shown]


def _listed(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{part} {size(n)}" for part, n in sorted(parts.items(), key=lambda item: -item[1]) if n)
