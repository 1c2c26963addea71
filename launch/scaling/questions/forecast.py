"""The forecast ledger: what was predicted before a run, and how it came out. Append-only JSON lines."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from launch.scaling.questions.saved_fit import SavedFit
from launch.scaling.table.seen import SAME, was_seen
from launch.scaling.table.table import Table
from trainer.contract.errors import UserError
from trainer.contract.plain_json import read_lines
from trainer.contract.run_dir import append_json


@dataclass(frozen=True)
class Forecast:
    """One prediction. Losses in nats per token; `interval` is 95 % for one new run."""

    id: str
    time: str
    name: str
    N: float | None
    D: float | None
    C: float | None
    loss: float
    perplexity: float
    interval: tuple[float, float] | None
    law: str
    status: str
    convention: str
    times_largest: float | None  # C over the largest C of the fit (N or D for laws of one variable), where known
    data_sha256: str
    fit_sha256: str
    seen: bool = False  # by the fit: then the run tests nothing

    @property
    def beyond(self) -> str:
        """How far the run lies beyond those of the fit, as text."""
        return "unknown times" if self.times_largest is None else f"{self.times_largest:.3g} times"


@dataclass(frozen=True)
class Score:
    """How a forecast came out."""

    forecast: Forecast
    row: int
    measured: float

    @property
    def error(self) -> float:
        """Relative error of the loss."""
        return self.forecast.loss / self.measured - 1

    @property
    def inside(self) -> bool | None:
        """Whether the interval holds the run; None without one, and for a run that the fit has seen."""
        ends = self.forecast.interval
        return None if ends is None or self.forecast.seen else ends[0] <= self.measured <= ends[1]

    def to_json(self) -> dict[str, object]:
        """Return the forecast and how it was met for `--json`."""
        return {
            **asdict(self.forecast), "row": self.row, "measured": self.measured, "error": self.error,
            "inside": self.inside,
        }  # fmt: skip


def make_forecast(fit: SavedFit, fit_text: str, *, time: str, name: str, N: float | None, D: float | None) -> Forecast:
    """Predict one run. Raises `UserError` when the law needs a number that was not given."""
    C = 6 * N * D if N and D else None
    known = {k: v for k, v in (("N", N), ("D", D), ("C", C)) if v is not None}
    missing = [v for v in fit.law.variables if v not in known]
    if missing:
        raise UserError(f"law {fit.law.name!r} needs {', '.join(fit.law.variables)}: give {_flags(missing)}")
    loss, interval = fit.new_run(**known)
    scale = "C" if "C" in known and len(fit.law.variables) > 1 else fit.law.variables[0]
    identity = json.dumps([name, N, D, loss, time, fit.table_sha256])
    return Forecast(
        id=hashlib.sha256(identity.encode()).hexdigest()[:12],
        time=time,
        name=name,
        N=N,
        D=D,
        C=C,
        loss=loss,
        perplexity=float(np.exp(loss)),
        interval=interval,
        law=fit.law.name,
        status=fit.status,
        convention=fit.convention,
        times_largest=known[scale] / fit.range[scale][1] if scale in fit.range else None,
        data_sha256=fit.table_sha256,
        fit_sha256=hashlib.sha256(fit_text.encode()).hexdigest(),
        seen=was_seen(fit.runs, name, {v: known.get(v) for v in ("N", "D") if v in fit.law.variables or v in known}),
    )


def _flags(missing: list[str]) -> str:
    return ", ".join({"N": "--params", "D": "--tokens", "C": "--params and --tokens"}[m] for m in missing)


def append(path: Path, forecast: Forecast) -> None:
    """Write a forecast down."""
    path.parent.mkdir(parents=True, exist_ok=True)
    append_json(path, asdict(forecast))


def read(path: Path) -> Iterator[Forecast]:
    """Yield the forecasts of a ledger; lines that are damaged are skipped, with their number on standard error.

    Raises `UserError` where there is no ledger, and for a line that is no forecast.
    """
    if not path.exists():
        raise UserError(f"no forecasts: {path} does not exist (make one with `escala forecast`)")
    lines = read_lines(path)
    if lines.damaged:
        print(f"warning: {path} has {lines.damaged} damaged lines, which are skipped", file=sys.stderr)
    for number, row in enumerate(lines.rows, start=1):
        try:
            interval = tuple(row["interval"]) if row["interval"] else None
            yield Forecast(**{**row, "interval": interval})
        except (TypeError, KeyError) as error:
            raise UserError(f"{path}, line {number}: not a forecast: {error}") from None


def score(forecasts: list[Forecast], table: Table) -> tuple[list[Score], list[Forecast]]:
    """Match forecasts to runs by name, or by N and D within 2 %; return scores and those still waiting."""
    names = table.labels.get("name")
    scores, waiting = [], []
    for forecast in forecasts:
        match = np.ones(len(table), bool)
        counted = table.conventions.get(forecast.convention, table.columns.get("N"))
        for value, column in ((forecast.N, counted), (forecast.D, table.columns.get("D"))):
            if value is not None and column is not None:
                match &= np.abs(column / value - 1) < SAME
        if names is not None and forecast.name and (names == forecast.name).any():
            match = names == forecast.name
        if forecast.data_sha256 and forecast.data_sha256 == table.sha256:
            match[:] = False  # nothing has come in since the fit
        scores += [Score(forecast, int(table.row[i]), float(table.loss[i])) for i in np.flatnonzero(match)]
        if not match.any():
            waiting.append(forecast)
    return scores, waiting
