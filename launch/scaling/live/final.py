"""The final loss of a run that is under way, from its curve so far."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.run.off_course import departure
from launch.scaling.live.runs import curve_of, steps_before_skipped
from trainer.config.load import load_written
from trainer.contract.errors import UserError
from trainer.contract.expected import BAND, ExpectedCurve
from trainer.contract.leaving import Follower, Off
from trainer.contract.run_dir import RunDir


@dataclass(frozen=True)
class FinalForecast:
    """Losses in nats per token on `eval_set`, intervals of 95 %. `before`: as forecast before the first step."""

    run: str
    step: int
    steps: int
    eval_set: str
    loss: float
    interval: tuple[float, float]
    perplexity: float
    before: float
    before_interval: tuple[float, float]
    off: float  # of the last logged step, in standard deviations
    left_at: int | None  # step at which it left its band: the forecast is then not to be trusted

    def to_json(self) -> dict[str, object]:
        """Return plain values for scripts."""
        return asdict(self)


def final_forecast(run: Path, curve: ExpectedCurve) -> FinalForecast:
    """Forecast the final loss of a run from its logged steps. Raises `UserError` where it has none."""
    run_dir = RunDir(run)
    config = load_written(run_dir.config)
    steps, log_losses = curve_of(run_dir, config)
    if not len(steps):
        raise UserError(f"{run} has no logged step yet: its forecast is that of `escala forecast --curve`")
    follower, left, off = Follower(curve, until=steps_before_skipped(run_dir, config)), None, None
    before = follower.final()
    for step, log_loss in zip(steps, log_losses, strict=True):
        off = follower.see(int(step), math.exp(log_loss))
        left = off.step if left is None and off.test is not None else left
    if left is None and (told := departure(run_dir)) is not None:  # by its norm
        left = int(told["step"])
    assert isinstance(off, Off)
    mean, sd = follower.final()
    return FinalForecast(
        run=run.name, step=off.step, steps=curve.total_steps, eval_set=curve.eval_set, loss=math.exp(mean),
        interval=ends(mean, sd), perplexity=math.exp(math.exp(mean)), before=math.exp(before[0]),
        before_interval=ends(*before), off=off.off, left_at=left,
    )  # fmt: skip


def ends(mean: float, sd: float) -> tuple[float, float]:
    """Return the interval of 95 % of a loss whose logarithm has this mean and standard deviation."""
    return math.exp(mean - BAND * sd), math.exp(mean + BAND * sd)
