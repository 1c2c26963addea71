"""Does the live law hold what it says? Trains a ladder and faulty runs, then judges each run by the others.

    python -m benchmarks.live_law train --corpus DIR --out DIR     # an hour on two cores
    python -m benchmarks.live_law train --corpus DIR --out DIR --ladders fourth-ladder     # half an hour of it
    OMP_NUM_THREADS=1 python -m benchmarks.live_law judge --out DIR
    OMP_NUM_THREADS=1 python -m benchmarks.live_law simulate --out DIR --runs 300     # false alarms of drawn ladders

`train` runs real sweeps (`live_law_runs.py`), and only what is missing. The corpus is a directory with
`eltec_eng.jsonl.gz` and `eltec_fra_10mb.jsonl.gz` (COST-ELTeC), read as bytes. `judge` reads the runs' directories and
trains nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.live_law_runs import LADDERS, SCHEDULES, SETTINGS, TESTED_ON, WIDE, train
from benchmarks.live_law_simulated import false_alarms
from launch.scaling.live.ledger import finished_runs
from launch.scaling.live.make import expected_curve
from launch.scaling.live.runs import Finished, Kind
from launch.scaling.live.shapes import shape_of
from trainer.contract.expected import BAND, ExpectedCurve
from trainer.contract.leaving import Follower, GrowthFollower, Off


@dataclass(frozen=True)
class Judged:
    """One run against the curve that others foretell. Errors are of the log of the final loss."""

    inside: float  # share of its points in the band
    left: Off | None  # where it left its band
    before: float
    quarter: float
    covered: bool  # whether the interval after a quarter holds the final loss
    end: Off
    norm: int | None  # step at which the norm of its matrices left its band
    norm_end: float  # how far off that is at the end, in standard deviations


def judge(curve: ExpectedCurve, run: Finished) -> Judged:
    """Follow a finished run along an expected curve."""
    follower, seen = Follower(curve), []
    before, quarter = follower.final()[0], (math.nan, math.nan)
    for step, log_loss in zip(run.steps, run.log_loss, strict=True):
        seen.append(follower.see(int(step), math.exp(log_loss)))
        if step == run.kind.steps // 4:
            quarter = follower.final()
    norm, norm_end = judge_norm(curve, run)
    left = next((off for off in seen if off.test is not None), None)
    inside = float(np.mean([abs(off.off) < BAND for off in seen]))
    error = quarter[0] - run.final
    return Judged(inside, left, before - run.final, error, abs(error) < BAND * quarter[1], seen[-1], norm, norm_end)


def judge_norm(curve: ExpectedCurve, run: Finished) -> tuple[int | None, float]:
    """Return where the norm of a run's matrices leaves its band, and how far off it is at the end."""
    if curve.growth is None or run.norms is None:
        return None, math.nan
    follower, limit, off = GrowthFollower(curve), curve.growth.limit, 0.0
    left = None
    for step, log_norm in zip(*run.norms, strict=True):
        off = follower.see(int(step), math.exp(log_norm)) or 0.0
        left = int(step) if left is None and abs(off) > limit else left
    return left, off


def curve_without(ladder: list[Finished], wanted: Kind) -> ExpectedCurve:
    """Return the curve of a run from those of other sizes, as if it were one of the ladder."""
    others = [run for run in ladder if run.kind.N != wanted.N]
    return expected_curve(others, dataclasses.replace(wanted, like=ladder[0].kind.like))


def held_out(schedule: str, ladder: list[Finished]) -> None:
    """Print how the runs of a ladder fare, each with its size left out."""
    found = [judge(curve_without(ladder, run.kind), run) for run in ladder]
    before, quarter = (np.abs([getattr(one, name) for one in found]) for name in ("before", "quarter"))
    pairs = [
        abs(a.final - b.final) for a in ladder for b in ladder if a.kind.N == b.kind.N and a.kind.seed < b.kind.seed
    ]
    seeds = f"{np.mean(pairs):.2%}" if pairs else "-"
    inside, alarms = [one.inside for one in found], sum(one.left is not None for one in found)
    norms = sum(one.norm is not None for one in found)
    covered = f"{sum(one.covered for one in found)} of {len(found)}"
    print(
        f"| {schedule} | {len(found)} | {np.mean(inside):.1%} | {min(inside):.0%} | {alarms} | {norms} | "
        f"{before.mean():.2%} | {quarter.mean():.2%} | {quarter.max():.2%} | {covered} | {seeds} |",
        flush=True,
    )


def simulated(schedule: str, ladder: list[Finished], runs: int = 500) -> None:
    """Print how many simulated runs raise a false alarm: deviations drawn as stated, noise from the ladder's own."""
    dice, alarms = np.random.default_rng(1), 0
    for run in ladder:
        curve = curve_without(ladder, run.kind)
        own = shape_of(run).left - [curve.batches.get(int(step), 0.0) for step in run.steps]
        follower = Follower(curve, runs)
        draws = dice.standard_normal((runs, len(curve.modes)))
        left = np.zeros(runs, bool)
        for step in run.steps:
            mean, modes, _ = follower.at(step)
            near = own[max(0, int(step) - 30) : int(step) + 30]  # residuals of about this time, heavy tails and all
            _, level, drift = follower.take(step, mean + draws @ modes + dice.choice(near, runs))
            left |= (np.abs(level) > curve.limits.level) | (np.abs(drift) > curve.limits.drift)
        alarms += int(left.sum())
    print(f"| {schedule} | {runs * len(ladder)} | {alarms} | {alarms / (runs * len(ladder)):.2%} |", flush=True)


def faults(schedule: str, ladder: list[Finished], runs: Path) -> None:
    """Print when each faulty run left the band of an undisturbed one: with known batches, and as if of another seed."""
    for place in sorted(runs.glob(f"{schedule}-*")):
        kind, _, onset = place.name.removeprefix(f"{schedule}-").partition("-")
        if place.name.endswith("ladder") or not (place / "ledger.jsonl").exists():
            continue
        start = int(onset or 0)
        for run in finished_runs(place)[0]:
            other = dataclasses.replace(run.kind, seed=1 + max(LADDERS[TESTED_ON].seeds))
            known, unknown = (judge(curve_without(ladder, one), run) for one in (run.kind, other))
            norm = "no" if unknown.norm is None else f"{unknown.norm / run.kind.steps:.1%}"
            print(
                f"| {_fault(run) or kind} | {schedule} | {run.kind.N:,.0f} | {start} | "
                f"{'' if start else _left(known, run, 0)} | {_left(unknown, run, start)} | "
                f"{norm if run.norms and not start else ''} | {unknown.end.level:+.1f} | {unknown.before:+.2%} |",
                flush=True,
            )


def _fault(run: Finished) -> str:
    """Return which of the settings a run was trained with; "" for none of them."""
    optim = run.kind.like["optim"]
    return next(
        (name for name, one in SETTINGS.items() if all(optim[k.split(".")[1]] == v for k, v in one.items())), ""
    )


def _left(one: Judged, run: Finished, start: int) -> str:
    return "no" if one.left is None else f"{(one.left.step - start) / run.kind.steps:.1%}, {one.left.test}"


HELD_OUT = (
    "schedule", "ladder", "runs", "points inside", "least", "alarms", "of the norm", "error before", "after a quarter",
    "largest", "held", "seeds apart",
)  # fmt: skip
SIMULATED = ("schedule", "simulated runs", "false alarms", "share")
FAULTS = (
    "fault", "schedule", "N", "from step", "same seed: left after", "another seed", "by the norm", "level at the end",
    "forecast",
)  # fmt: skip


def print_head(columns: tuple[str, ...]) -> None:
    """Print the head of a table."""
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def finished_ladders(out: Path) -> dict[tuple[str, str], list[Finished]]:
    """Return the ladders that are trained, by schedule and name."""
    ladders: dict[tuple[str, str], list[Finished]] = {}
    for schedule in SCHEDULES:
        for ladder, one in LADDERS.items():
            place = out / "runs" / f"{schedule}-{ladder}"
            wanted = len(one.widths) * len(one.seeds)
            if (place / "ledger.jsonl").exists() and len(found := finished_runs(place)[0]) == wanted:
                ladders[schedule, ladder] = found
    return ladders


def simulate(out: Path, runs: int, scales: list[float]) -> None:
    """Print how many undisturbed runs of simulated ladders raise a false alarm of the loss."""
    ladders = [found for (_, name), found in finished_ladders(out).items() if name != WIDE]
    print_head(("batches", "simulated runs", "false alarms", "share"))
    for batches, alarms in false_alarms(ladders, runs, scales).items():
        print(f"| {batches} | {runs} | {alarms} | {alarms / runs:.1%} |", flush=True)


def judge_all(out: Path) -> None:
    """Print the tables."""
    ladders = finished_ladders(out)
    print_head(HELD_OUT)
    for (schedule, ladder), runs in ladders.items():
        held_out(f"{schedule} | {ladder}", runs)
    tested = {schedule: runs for (schedule, ladder), runs in ladders.items() if ladder == TESTED_ON}
    print_head(SIMULATED)
    for schedule, runs in tested.items():
        simulated(schedule, runs)
    print_head(FAULTS)
    for schedule, runs in tested.items():
        faults(schedule, runs, out / "runs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["train", "judge", "simulate"])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ladders", nargs="+", default=list(LADDERS), choices=list(LADDERS), help="that are trained")
    parser.add_argument("--runs", type=int, default=300, help="that are simulated")
    parser.add_argument(
        "--scales", nargs="+", type=float, default=[0.5, 1.0, 1.5], help="times the real ladders' deviations"
    )
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=list(SCHEDULES))
    arguments = parser.parse_args()
    if arguments.action == "train":
        if arguments.corpus is None:
            parser.error("train needs --corpus")
        train(arguments.corpus, arguments.out, arguments.schedules, arguments.ladders)
    elif arguments.action == "simulate":
        simulate(arguments.out, arguments.runs, arguments.scales)
    else:
        judge_all(arguments.out)


if __name__ == "__main__":
    main()
