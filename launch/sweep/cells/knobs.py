"""Where the knobs of a tuning stand in the runs of a sweep, and what may be asked of them.

Each is tuned with the ones before it at their best, so the search goes along coordinates. A run with another batch
takes the learning rate of that batch by a rule: in proportion to the root of the batch for AdamW and Muon (Malladi et
al. 2022, arXiv 2205.10287), to the batch itself for SGD (Goyal et al. 2017, arXiv 1706.02677).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from launch.scaling.tune.knobs import BATCH, BRACKETS, DECAY, FACTOR, RATE_POWERS, WORDS, Knob
from launch.scaling.tune.search import Bracket
from launch.sweep.cells.planned import PlannedCell
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError

DIGITS = 4  # of a value, so that names stay short
FEWEST_STEPS = 16  # of a run: with fewer, rounding tokens up to whole steps would change its length
FINE = 8  # parts of an octave to which the best value of one knob is rounded for the next ones


@dataclass(frozen=True)
class Start:
    """One size before its tuning: what the sweep says of it, and where each knob stands."""

    settings: Mapping[str, Any]
    own: Mapping[Knob, float]  # lr: as its factor
    batch_unit: int  # tokens; a batch is a multiple, so that ranks and micro-batches share it
    rate_power: float
    most_batch: float  # tokens: FEWEST_STEPS steps at least

    @classmethod
    def of(cls, one: PlannedCell) -> Start:
        """Return where a planned cell of the sweep stands."""
        config, plan = one.cell.config, one.plan
        own: dict[Knob, float] = {
            "lr": config.optim.lr_factor,
            "batch": plan.tokens_per_step,
            "weight_decay": config.optim.weight_decay,
        }
        unit = config.model.context_length * plan.degrees.data * (config.batch.micro_batch or 1)
        fewest = max(FEWEST_STEPS, 2 * plan.warmup_steps if config.schedule.warmup.unit == "steps" else 0)
        return cls(one.cell.settings, own, unit, RATE_POWERS[config.optim.name], plan.tokens / fewest)

    def bracket(self, knob: Knob) -> Bracket:
        """Return how the values of a knob are spaced, and between which they lie."""
        bracket = BRACKETS[knob]
        if knob != "batch":
            return bracket
        own = self.own["batch"]
        high = max(math.log2(self.most_batch / own), 0.0)
        return replace(bracket, low=math.log2(self.batch_unit / own), high=high)

    def value(self, knob: Knob, x: float) -> float:
        """Return the value that is x octaves from the sweep's own: of a batch the nearest that is possible."""
        wanted = self.own[knob] * 2**x
        if knob != "batch":
            return float(f"{wanted:.{DIGITS}g}")
        units = wanted / self.batch_unit
        below = max(math.floor(units), 1)
        return self.batch_unit * min((below, below + 1), key=lambda n: abs(math.log(n / units)))

    def octaves(self, knob: Knob, value: float) -> float:
        """Return how many octaves a value is from the sweep's own."""
        return math.log2(value / self.own[knob])

    def rate_ratio(self, batch: float) -> float:
        """Return by how much the learning rate of a batch differs from that of the sweep's own, by the rule."""
        return float((batch / self.own["batch"]) ** self.rate_power)

    def settings_at(self, values: Mapping[Knob, float]) -> dict[str, Any]:
        """Return the settings of a run with these values: a learning rate is that of the sweep's own batch."""
        found = dict(self.settings)
        factor = values.get("lr", self.own["lr"])
        if "batch" in values:
            found[BATCH] = int(values["batch"])
            factor *= self.rate_ratio(values["batch"])
        if "weight_decay" in values:
            found[DECAY] = values["weight_decay"]
        return {**found, FACTOR: float(f"{factor:.{DIGITS}g}")}

    def fixed(self, knob: Knob, x: float) -> float:
        """Return the value at which a knob stays for those after it, x octaves from the sweep's own."""
        return self.value(knob, round(x * FINE) / FINE)


def check_knobs(knobs: tuple[Knob, ...], config: RunConfig) -> None:
    """Raise UserError where a knob cannot be tuned in a sweep, of which this is a run."""
    if "lr" not in knobs:
        raise UserError(
            f"--knobs {','.join(knobs)}: {WORDS[knobs[0]]} is tuned at the best learning rate: add lr; what is tuned "
            "already is not trained again"
        )
    if "batch" in knobs and config.tokens is None:
        raise UserError(
            "--knobs batch: the length of the runs is given in steps, so a larger batch would be a longer run: "
            "give 'tokens' in place of 'steps'"
        )
    if "weight_decay" in knobs and config.optim.weight_decay == 0:
        raise UserError("--knobs weight_decay: it is 0, and so is each multiple: set optim.weight_decay, such as 0.1")
    if "weight_decay" in knobs and config.optim.muon_weight_decay is not None:
        raise UserError(
            "--knobs weight_decay: optim.muon_weight_decay keeps the matrices' own: leave it out, so that one weight "
            "decay is tuned"
        )
