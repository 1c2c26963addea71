"""With which settings a checkpoint was trained, and which of them a run that goes on from it may change.

No change goes unsaid. What decides the order of the data is refused: the position that a checkpoint holds means nothing
in another order. All else may change, for a checkpoint is also where people lower a learning rate or lengthen a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.config.optim import ScheduleConfig
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.plan.learning_rate import lr_share
from trainer.plan.plan import Plan

# Settings that decide which sample is read in which step. Those of the data are compared by
# trainer/data/order/continuing.py.
ORDER = ("seed", "batch.tokens_per_step")
# They shape the learning rate; a change is one where the rate of the steps so far would have been another.
RATE = ("steps", "schedule")
POINTS = 200  # of the schedule that are compared


def settings_of(config: RunConfig, plan: Plan) -> dict[str, object]:
    """Return the settings that a checkpoint names, as plain JSON values, with `auto` resolved."""
    optim = config.optim.model_dump(mode="json", exclude={"name", "lr"})
    return {
        "optim.lr": plan.lr,
        **{f"optim.{key}": value for key, value in optim.items()},
        "schedule": config.schedule.model_dump(mode="json"),
        "steps": plan.steps,
        "batch.tokens_per_step": config.batch.tokens_per_step,
        "seed": config.seed,
        "precision": plan.precision,
        **{f"model.{key}": value for key, value in config.model.regularisers().items()},
    }


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any], step: int) -> dict[str, dict[str, Any]]:
    """Return the settings that differ after `step` steps, as `{name: {"there": value, "here": value}}`.

    A setting that only one side knows is no difference: another version wrote the checkpoint.
    """
    names = [name for name in now if name in then and then[name] != now[name]]
    rates = _rates(then, step)
    if rates is not None and rates == _rates(now, step):
        names = [name for name in names if name not in RATE]
    return {name: {"there": then[name], "here": now[name]} for name in names}


def refuse_other_order(changed: Mapping[str, Mapping[str, Any]], checkpoint: Path) -> None:
    """Raise `UserError` where a changed setting decides the order of the data."""
    refused = {name: values for name, values in changed.items() if name in ORDER}
    if refused:
        raise UserError(
            f"{checkpoint} was trained with {sentence(refused)}: the order of data would not go on. Use the "
            "checkpoint's, or begin anew from its weights (checkpoint.load: warm_start and checkpoint.source)"
        )


def sentence(changed: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what differs, by name."""
    parts = []
    for name, values in changed.items():
        there, here = values["there"], values["here"]
        if isinstance(there, dict) and isinstance(here, dict):
            keys = [key for key in here if there.get(key) != here[key]]
            parts += [f"{name}.{key} {there.get(key)!r} there and {here[key]!r} here" for key in keys]
        else:
            parts.append(f"{name} {there!r} there and {here!r} here")
    return "; ".join(parts)


def _rates(settings: Mapping[str, Any], step: int) -> list[float] | None:
    """Return the learning rate's share of its peak at points of the first `step` steps, or None where unknown."""
    try:
        schedule = ScheduleConfig.model_validate(settings["schedule"])
        total, tokens = int(settings["steps"]), int(settings["batch.tokens_per_step"])
    except (KeyError, TypeError, ValueError, ValidationError):
        return None
    points = [*range(0, step, max(1, step // POINTS)), *([step - 1] if step else [])]
    return [lr_share(schedule, point, total_steps=total, tokens_per_step=tokens) for point in points]
