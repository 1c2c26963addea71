"""What a run is in W&B: its name and group, its configuration, its metrics with their axes, and its summary.

Everything comes from the run directory, so that whoever sends later says the same.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from trainer.contract.hiding import looks_secret, without_secrets
from trainer.contract.plain_json import NON_FINITE, DamagedFileError, read_object
from trainer.contract.run_dir import RunDir
from trainer.observe.metrics import AXES, METRICS, Metric
from trainer.observe.observers import Row

FLOPS = "flops"  # an axis that follows from the tokens: runs of all sizes overlay on it
_COSTS = {
    "gpu_seconds": ("gpu_hours", 1 / 3600),
    "core_seconds": ("core_hours", 1 / 3600),
    "cost": ("cost", 1.0),
    "energy_joules": ("energy_kwh", 1 / 3.6e6),
}
_BY_KEY = {metric.key: metric for metric in METRICS}


def arguments(run_dir: RunDir) -> dict[str, Any]:
    """Return the arguments of `wandb.init`. Raises `DamagedFileError` or `FileNotFoundError` for a run not begun."""
    config = _read_yaml(run_dir)
    plan = read_object(run_dir.plan)
    tracking = config.get("tracking") or {}
    group = tracking.get("group")
    return {
        "id": str(read_object(run_dir.run, "wandb_id")["wandb_id"]),
        "project": tracking.get("project") or "escala",
        "group": _hidden(group),
        "job_type": "cell" if group else "train",
        "name": _hidden(config.get("name")),
        "tags": _hidden(list(tracking.get("tags") or ())),
        "config": _hidden({**config, "plan": plan}),
    }


def prompts_of(run_dir: RunDir) -> list[str]:
    """Return the prompts that a run's checkpoints are to continue."""
    return [str(prompt) for prompt in (_read_yaml(run_dir).get("tracking") or {}).get("prompts") or ()]


def flops_per_token(run_dir: RunDir) -> float:
    """Return the planned FLOPs of one token, forward and backward."""
    return float(read_object(run_dir.plan, "flops_per_token")["flops_per_token"]["total"])


def values_of(row: Row, flops: float) -> dict[str, float | str]:
    """Return the numbers of a row under their names in W&B: `train/loss`, `evaluation/validation/loss`, and the axes.

    `flops` is the FLOPs of one token. Of a sample also its text: `sample/0/text`.
    """
    place = "/".join(str(part) for part in (row.get("kind"), row.get("eval_set")) if part)
    numbers = {**row, **{key: float(word) for key, word in row.get(NON_FINITE, {}).items() if key in row}}
    for key in [key for key, value in numbers.items() if isinstance(value, dict)]:
        numbers |= {f"{key}/{name}": value for name, value in numbers[key].items()}
    found = {k: v for k, v in numbers.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    values: dict[str, float | str] = {key if key in AXES else f"{place}/{key}": value for key, value in found.items()}
    if isinstance(text := row.get("text"), str):
        values[f"{place}/text"] = without_secrets(text)
    if "tokens" in found:
        values[FLOPS] = found["tokens"] * flops
    return values


def metric_of(name: str) -> Metric | None:
    """Return the declaration behind a name in W&B."""
    return _BY_KEY.get(name.rpartition("/")[2])


def summary_of(run_dir: RunDir) -> dict[str, float]:
    """Return the final numbers of a run that is done, as far as they are known: perplexities, FLOPs, what it cost."""
    try:
        result = read_object(run_dir.result)
        plan = read_object(run_dir.plan, "flops", "world")
    except (FileNotFoundError, DamagedFileError):
        return {}
    summary: dict[str, float] = {"final/flops": float(plan["flops"])}
    for evaluation in result.get("evaluations") or ():
        loss = evaluation.get("loss")
        if isinstance(loss, int | float):
            summary[f"final/{evaluation.get('eval_set', 'validation')}/perplexity"] = math.exp(min(loss, 700.0))
    for key, (name, share) in _COSTS.items():
        if isinstance(value := result.get(key), int | float):
            summary[f"final/{name}"] = value * share
    return summary


def artifacts_of(run_dir: RunDir) -> list[tuple[str, Path]]:
    """Return what a run refers to in W&B, by kind and place: its tokenizer and its checkpoints, the newest last."""
    found = [("tokenizer", run_dir.tokenizer)] if run_dir.tokenizer.is_dir() else []
    return found + [("checkpoint", path) for path in sorted(run_dir.checkpoints.glob("step_*"))]


def _read_yaml(run_dir: RunDir) -> dict[str, Any]:
    try:
        values = yaml.safe_load(run_dir.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        values = None
    if not isinstance(values, dict):
        raise DamagedFileError(f"{run_dir.config} is damaged: it holds no settings")
    return values


def _hidden(value: Any, name: str = "") -> Any:
    """Return values without secrets: those of the environment, and those of settings whose names say so."""
    if isinstance(value, dict):
        return {key: _hidden(item, str(key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_hidden(item, name) for item in value]
    if isinstance(value, str):
        return "***" if looks_secret(name) else without_secrets(value)
    return value
