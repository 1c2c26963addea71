"""What slows a run down or holds it up, from its newest row."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice

from launch.run.newest_step import newest_step, training_rows
from launch.run.run_state import state_of
from trainer.contract.durations import duration
from trainer.contract.run_dir import RunDir
from trainer.observe.metrics import METRICS

WAITS, UNEVEN, WASTED = 0.1, 1.5, 0.8  # share of a step; p95 over median; goodput below which it is worth a line
LATE = 0.1  # share of a step by which the slowest rank holds the others up
COMPILES_ROWS = 20  # rows within which torch.compile is expected to have come to its end
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
    found += _compiles(run_dir, value) + _straggler(value, step)
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


def _straggler(value: dict[str, float], step: float) -> list[Slow]:
    """Return the rank that all others wait for, where that costs a good part of a step."""
    slowest, median = value.get("slowest_rank_seconds", 0.0), value.get("rank_seconds", 0.0)
    if not step or slowest - median < LATE * step:
        return []
    rank, wait = int(value.get("slowest_rank", 0)), value.get("slowest_rank_wait", 0.0)
    text = f"of a step of {step:.3g} s, rank {rank} needs {slowest:.3g} s until ranks meet, the median {median:.3g} s"
    if wait > (slowest - median) / 2:
        return [Slow("straggler", f"{text}; {wait:.3g} s of it wait for data", "look at the disk of its host")]
    helps = "look for another job, a hot or throttled GPU or a slow link on its host; `escala preflight` measures hosts"
    return [Slow("straggler", text, helps)]


def _compiles(run_dir: RunDir, value: dict[str, float]) -> list[Slow]:
    """Return a line where torch.compile still makes graphs in a run that is well under way."""
    rows = list(islice(training_rows(run_dir), COMPILES_ROWS + 1))
    before = rows[-1].get("compiled_graphs") if len(rows) > COMPILES_ROWS else None
    graphs = int(value.get("compiled_graphs", 0))
    if not isinstance(before, int) or graphs <= before:
        return []
    text = f"torch.compile made {graphs - before} more graphs in the last {COMPILES_ROWS} rows, {graphs} in all"
    return [Slow("recompilation", text, "set parallel.compile to false, or TORCH_LOGS=recompiles to see why")]
