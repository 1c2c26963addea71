"""expected.json: the loss that a run is expected to have at each step, and how runs of its kind deviate from that.

`launch/scaling/live/` makes it from finished runs, training follows it (`trainer/observe/live_law.py`), and a forecast
of the final loss starts from it. All of them use logarithms of the loss in nats per token.

The model: at step s a run's log loss is `mean(s) + batch(s) + sum_j c_j mode_j(s) + noise(s)`. The c_j are standard
normal, one draw a run: initial values, what the law misses. The noise is that of one batch, independent from step to
step; where finished runs have read the same batch, what it adds to the loss is known (`batches`), and less is left.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.contract.errors import UserError
from trainer.contract.plain_json import DamagedFileError, read_object, to_json
from trainer.contract.run_dir import write_atomically

FORMAT = 1
BAND = 1.96  # standard deviations: 95 % of the points of an undisturbed run


@dataclass(frozen=True)
class Limits:
    """From which values on the two tests say that a run has left its band; see `trainer/contract/leaving.py`."""

    level: float
    drift: float


@dataclass(frozen=True)
class ExpectedGrowth:
    """The log norm of the matrices less that after `since` steps: its mean and standard deviation, over `steps`.

    The run has left its band where it is over `limit` standard deviations away.
    """

    mean: list[float]
    sd: list[float]
    since: float
    limit: float


PARAMETER_NORMS = "param_norms"  # the metric that growth is read from


def norm_of(norms: Any) -> float | None:
    """Return the norm that is watched among norms by kind of parameter: weight decay acts on matrices alone."""
    value = norms.get("matrix") if isinstance(norms, dict) else None
    return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True)
class ExpectedCurve:
    """What is expected of one run. All lists over `steps` have its length; between them values are interpolated."""

    steps: list[float]  # optimizer steps done, rising
    mean: list[float]
    modes: list[list[float]]  # each over `steps`: a deviation of one standard deviation
    noise: list[float]  # standard deviation of one batch's log loss
    noise_of_known: list[float]  # the same of a batch that finished runs have read
    batches: dict[int, float]  # step -> what its batch adds to the log loss of every run that reads it
    final_mean: float  # of the last evaluation on the held-out set
    final_modes: list[float]  # the same deviations there
    limits: Limits
    total_steps: int
    tokens_per_step: int
    made_for: dict[str, Any]  # what determines the result of the run, as plain JSON values
    cells: list[str]  # the finished runs that it was made from
    eval_set: str = "held_out"
    format: int = FORMAT
    growth: ExpectedGrowth | None = None  # where the finished runs recorded norms
    other_rate: str = ""  # how its learning rate differs from those of the finished runs
    data_hash: str | None = None  # of the finished runs' data, where they have one

    def save(self, path: Path) -> None:
        """Write the file in one step."""
        write_atomically(path, to_json(asdict(self)) + "\n")

    def refuse_other(self, like: dict[str, Any], total_steps: int) -> None:
        """Raise `UserError` where a run is of another length, batch or schedule; `like`: `trainer/plan/likeness.py`."""
        pairs = (
            ("steps", self.total_steps, total_steps),
            ("batch", self.made_for.get("batch"), like["batch"]),
            ("schedule", self.made_for.get("schedule"), like["schedule"]),
        )
        problems = [f"{name} {had} there, {has} here" for name, had, has in pairs if had != has]
        if problems:
            raise UserError(
                f"the expected curve is of another kind of run ({'; '.join(problems)}): make it again with "
                "`escala forecast --curve`"
            )

    @classmethod
    def load(cls, path: Path) -> ExpectedCurve:
        """Read a file. Raises `UserError` where there is none, or it holds something else."""
        try:
            later = {"growth": None, "other_rate": "", "data_hash": None}  # not in files of former versions
            values = later | read_object(path, *(name for name in cls.__dataclass_fields__ if name not in later))
            batches = {int(step): float(added) for step, added in values["batches"].items()}
            growth = values["growth"] and ExpectedGrowth(**values["growth"])
            made = cls(**{**values, "limits": Limits(**values["limits"]), "batches": batches, "growth": growth})
            rows = [made.mean, made.noise, made.noise_of_known, *made.modes]
            rows += [growth.mean, growth.sd] if growth else []
            sound = len(made.steps) > 1 and all(len(row) == len(made.steps) for row in rows)
            if not sound or len(made.final_modes) != len(made.modes) or made.format != FORMAT:
                raise ValueError("its lists do not fit together")
            return made
        except FileNotFoundError:
            raise UserError(f"no expected curve: {path} (make one with `escala forecast --curve CONFIG`)") from None
        except DamagedFileError:
            raise
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not an expected curve ({error}): make it again with `escala forecast`"
            ) from None
