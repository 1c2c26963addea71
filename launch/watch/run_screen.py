"""One run on a whole screen: what it does, its curve, its last events, and what a rank printed last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from launch.cluster.logs import rank_logs
from launch.run.newest_step import newest_step, rows_backwards
from launch.show.costs import costs_text
from launch.show.text import count, progress_bar, size
from launch.watch.curve import Curve
from launch.watch.plot import plot
from launch.watch.run_table import STYLES, reason_of
from launch.watch.run_view import RunView
from trainer.contract.attempts import newest_attempt
from trainer.contract.durations import duration
from trainer.contract.plain_json import to_json
from trainer.contract.run_dir import RunDir
from trainer.observe.metrics import METRICS

HELP = "q back   j/k next run   r next rank   x log axis"
POINTS, EVENTS, LEAST_LOG, LOG_BYTES = 300, 6, 4, 32_768
NAMED = ("time", "event")  # keys of an event that stand before the others


@dataclass(frozen=True)
class Look:
    """How one run is looked at."""

    rank: int = 0
    log_x: bool = False

    def next_rank(self, run: Path) -> Look:
        """Look at the log of the next rank; after the last, of the first."""
        ranks = list(_logs(RunDir(run)))
        return replace(self, rank=next((rank for rank in ranks if rank > self.rank), ranks[0] if ranks else 0))


def run_screen(view: RunView, look: Look, width: int, height: int) -> RenderableType:
    """Return everything about one run that fits so many lines. Reads the ends of its files."""
    run_dir = RunDir(Path(view.run_dir))
    above = [_title(view), *map(Text, facts(view, newest_step(run_dir) or {}, width))]
    events = [Text(line) for line in last_events(run_dir, EVENTS)]
    log = [Text(line) for line in last_lines(run_dir, look.rank, height)]
    left = height - len(above) - len(events) - 3  # two headings and the help
    curve_lines = max(0, left - max(LEAST_LOG, min(len(log), left // 2)))
    points = Curve(run_dir.metrics, POINTS, early=True).read()
    curve = plot([(p.step, p.loss) for p in points], width, curve_lines, log_x=look.log_x)[:curve_lines]
    log = log[-max(0, left - len(curve)) :] if left > len(curve) else []
    heading = f"rank {look.rank} of {len(_logs(run_dir))}, {run_dir.logs(newest_attempt(run_dir.root))}"
    lines = [
        *above, *(Text(line, style="cyan") for line in curve), Text("events", style="bold"), *events,
        Text(heading, style="bold"), *log, Text(HELP, style="dim"),
    ]  # fmt: skip
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def _title(view: RunView) -> Text:
    text = Text(f"{view.sweep}/{view.name}" if view.sweep else view.name, style="bold")
    text.append(f"  {view.state}", style=STYLES.get(view.state, ""))
    return text.append(f"  {reason_of(view)}", style="") if reason_of(view) else text


def facts(view: RunView, row: Mapping[str, object], width: int) -> list[str]:
    """Return what is known of a run in lines of at most so many characters: bar, pace, where its wall time went."""
    number = {key: value for key, value in row.items() if isinstance(value, int | float)}
    said = [f"{key} {number[key]:{shape}}" for key, shape in _SHOWN.items() if key in number]
    said += [f"left {duration(view.seconds_left)}"] if view.seconds_left and view.state == "running" else []
    said += [f"memory {size(number['memory_peak'])}"] if "memory_peak" in number else []
    said += [cost] if (cost := costs_text(view.to_costs())) else []
    if wall := number.get("wall_seconds"):
        shares = [f"{name} {number[key] / wall:.0%}" for key, name in _PARTS.items() if number.get(key)]
        said.append(f"wall {duration(wall)}: {', '.join(shares)}")
    lines = [progress(view, width)] if view.step is not None and view.steps else []
    for part in said:
        if len(lines) > 1 and len(lines[-1]) + 3 + len(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines.append(part)
    return lines


def progress(view: RunView, width: int) -> str:
    """Return a bar of the steps that are done."""
    share = min(1.0, (view.step or 0) / (view.steps or 1))
    text = f" step {count(view.step or 0)}/{count(view.steps or 0)} {share:.0%}"
    return progress_bar(share, max(0, min(40, width - len(text)))) + text


def last_events(run_dir: RunDir, most: int) -> list[str]:
    """Return the last events, oldest first, each in one line."""
    try:
        rows = list(islice(rows_backwards(run_dir.events), most))
    except OSError:
        return []
    return [
        f"{_clock(row.get('time'))} {row.get('event', '')}"
        + "".join(f"  {key} {_short(value)}" for key, value in row.items() if key not in NAMED and value is not None)
        for row in reversed(rows)
    ]


def _clock(time: object) -> str:
    """Return month, day and time of day of a time of the record, UTC: the year and the offset fill a narrow line."""
    try:
        return datetime.fromisoformat(str(time)).strftime("%m-%d %H:%M:%S")
    except ValueError:
        return str(time or "")


def last_lines(run_dir: RunDir, rank: int, most: int) -> list[str]:
    """Return the last lines that a rank printed in the newest attempt."""
    log = _logs(run_dir).get(rank)
    if log is None:
        return ["it has printed nothing"]
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
        return file.read().decode("utf-8", "replace").splitlines()[-most:]


def _logs(run_dir: RunDir) -> dict[int, Path]:
    return rank_logs(run_dir.logs(newest_attempt(run_dir.root)))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else to_json(value)


_SHOWN = {
    metric.key: metric.format for metric in METRICS
    if metric.key in ("loss", "off", "grad_norm", "lr", "tokens_per_second", "mfu", "step_seconds", "goodput")
}  # fmt: skip
_PARTS = {
    "train_seconds": "training", "start_seconds": "start", "wait_seconds": "data", "save_seconds": "saves",
    "evaluation_seconds": "evaluations", "lost_seconds": "lost to restarts",
}  # fmt: skip
