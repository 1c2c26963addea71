"""What a run is: the hash of everything that determines its result, resolved, and of nothing else.

`lr: auto` enters as the number that it comes to, `precision: auto` as fp32 or bf16, a length in tokens as steps, a
warm start as the hash of its checkpoint's manifest. `trainer/config/identity.py` says which fields count.

The vocabulary enters as it is stated: one that is left out is the tokenizer's, which the data section determines. So
a name does not depend on whether the data are prepared.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from trainer.config.identity import Determines, determining, hash_of
from trainer.config.model import ModelConfig
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.plan.learning_rate import peak_lr
from trainer.plan.length import total_steps, total_tokens
from trainer.plan.sharding import resolve_precision

# A run that goes on in its own directory may change these, and does so when it is in trouble.
CHANGED_ON_RESUME = ("skip_steps", "guard", "warm_start")
LR_DIGITS = 12  # the last digits of a power differ between machines


def result_values(config: RunConfig, *, gpu: bool) -> dict[str, object]:
    """Return what determines the result, as plain JSON values. `gpu`: whether the ranks find one, for `auto`."""
    values = determining(config, Determines.RESULT)
    for key in ("tokens", "checkpoint"):
        values.pop(key, None)
    values["steps"] = total_steps(config)
    if config.data.seed == config.seed:
        values["data"].pop("seed")  # as it is without it
    values["model"] = _model_values(config.model, values["model"])
    for key in ("lr_factor", "lr_horizon", "recipe"):  # they are in the rate
        values["optim"].pop(key, None)
    batch = config.batch.tokens_per_step
    lr = peak_lr(config.optim, config.body_parameters, total_tokens(config), batch)
    values["optim"]["lr"] = float(f"{lr:.{LR_DIGITS}g}")
    values["precision"] = came_to(config, gpu=gpu)
    if config.checkpoint.load == "warm_start" and config.checkpoint.source is not None:
        found = warm_start_of(config.checkpoint.source)
        values["warm_start"] = found[1] if found else None
    return values


def result_hash(config: RunConfig, *, gpu: bool) -> str:
    """Hash of what determines the result: the same at every layout, on every machine, under every name."""
    return hash_of(result_values(config, gpu=gpu))


def lasting_values(config: RunConfig, *, gpu: bool) -> dict[str, object]:
    """Return what a run may not change when it goes on in its directory, as plain JSON values."""
    values = result_values(config, gpu=gpu)
    return {key: value for key, value in values.items() if key not in CHANGED_ON_RESUME}


def came_to(config: RunConfig, *, gpu: bool) -> str:
    """Return the precision that the run computes in. `gpu`: whether the ranks find one."""
    if config.precision == "fp8":
        return "fp8"
    return resolve_precision(config.precision, gpu=config.device == "cuda" or (gpu and config.device == "auto"))


def warm_start_of(source: str) -> tuple[Path, str] | None:
    """Return the newest checkpoint of `source`, a checkpoint or a run directory, and its manifest's hash.

    One that is damaged as far as its manifest and the sizes of its files tell is passed over, as a start passes it
    over. None where there is none.
    """
    from trainer.checkpoint.manifest import MANIFEST  # late: the name of no other run asks for a checkpoint
    from trainer.checkpoint.search import newest_sound, root_of, sizes_problem

    try:
        found = newest_sound(root_of(Path(source)), sizes_problem)
        if found.checkpoint is None:
            return None
        return found.checkpoint, hashlib.sha256((found.checkpoint / MANIFEST).read_bytes()).hexdigest()
    except (UserError, OSError):  # the directory cannot be listed
        return None


def _model_values(model: ModelConfig, stated: dict[str, Any]) -> dict[str, object]:
    """Return the model's values with the defaults that follow from others spelt out, but for the vocabulary's."""
    known = model.with_any_vocabulary()
    spelt = {key: value for key, value in known.architecture().items() if key in stated and not key.startswith("vocab")}
    return {**stated, **spelt}
