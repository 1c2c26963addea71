"""What slows a run down or holds it up, from its newest row."""

from __future__ import annotations

import time
from dataclasses import dataclass

from launch.run.newest_step import newest_step
from launch.run.run_state import state_of
from trainer.contract.durations import duration
from trainer.contract.run_dir import RunDir
from trainer.observe.metrics import METRICS

WAITS, UNEVEN, WASTED = 0.1, 1.5, 0.8  # share of a step; p95 over median; goodput below which it is worth a line
SILENT_STEPS, SILENT_SECONDS = 20, 120.0  # without a row for both: it stands still
_UNITS = {metric.key: metric.unit.removeprefix("of the wall seconds: ") for metric in METRICS}


@dataclass(frozen=True)
class Slow:
    """One reason, and what helps."""

    kind: str
    says: str
    helps: str


def pace(run_dir: RunDir) -> list[Slow]:
    """Return what slows a run down, the gravest first; nothing where its record shows nothing."""
    row = newest_step(run_dir) or {}
    value = {key: float(item) for key, item in row.items() if isinstance(item, int | float)}
    step, found = value.get("step_seconds", 0.0), list[Slow]()
    if state_of(run_dir).word == "running" and value:
        silent = time.time() - run_dir.metrics.stat().st_mtime
        if silent > max(SILENT_SECONDS, SILENT_STEPS * step):
            text = f"no row for {duration(silent)}, and a step takes {step:.3g} s"
            found.append(
                Slow("stalled", text, "its watchdog ends it after guard.watchdog_seconds; `escala logs` shows it")
            )
    if step and value.get("data_seconds", 0.0) > WAITS * step:
        share = value["data_seconds"] / step
        text = f"a step waits {value['data_seconds']:.3g} s for data, {share:.0%} of its time"
        found.append(Slow("data wait", text, "put the token set on a faster disk, or finish its preparation first"))
    if step and (ratio := value.get("step_seconds_p95", 0.0) / step) > UNEVEN:
        text = f"the slowest steps take {ratio:.1f} times the median: {value['step_seconds_p95']:.3g} s"
        helps = "look for another job on its cores, a slow host or a slow file system"
        found.append(Slow("uneven steps", text, helps))
    if 0 < value.get("goodput", 1.0) < WASTED:
        parts = ("start_seconds", "wait_seconds", "save_seconds", "evaluation_seconds", "lost_seconds")
        most = max(parts, key=lambda part: value.get(part, 0.0))
        lost = f"{_UNITS[most]} ({value.get(most, 0.0):.0f} s)"
        text = f"{value['goodput']:.0%} of the wall time trained; most of the rest went into: {lost}"
        found.append(Slow("low goodput", text, "save and evaluate less often, or give the run more steps"))
    return found
