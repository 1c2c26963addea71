"""A comparison of two ladders as text: what differs, the multiplier at each rung, the verdict, what it rests on.

The terminal, the report and the JSON say the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from launch.scaling.compare.comparison import Axis, Comparison
from launch.scaling.compare.differences import Difference
from launch.scaling.compare.each import Judged
from launch.scaling.compare.power import Power
from launch.scaling.compare.shift import LEVEL, Estimate
from launch.scaling.compare.verdict import FALSE_PROMOTIONS
from launch.scaling.report.axes import NATS, log_x
from launch.scaling.report.figures import BLUE, ORANGE, RED
from launch.scaling.report.hover import label
from launch.scaling.report.model import Figure, Grid, Report, Section
from launch.show.text import count, flops_text

CURVE = 100  # points of a drawn curve
ROOM = 1.3  # beyond the rungs, in FLOPs


def comparison_report(found: Comparison, title: str) -> Report:
    """Return the report: the verdict first, then what differs, the figure and the numbers."""
    return Report(title, headline(found), comparison_sections(found))


def changes_compared(found: Sequence[Judged], title: str) -> Report:
    """Return the report of every change of a sweep against its base."""
    lines, sections = [], []
    for k, one in enumerate(found, start=1):
        if one.comparison is None:
            lines.append(f"{one.change}: not compared. {one.problem}")
            continue
        lines.append(f"{one.change}: {one.comparison.verdict.word.upper()}, {one.comparison.verdict.reason}.")
        each = comparison_sections(one.comparison, f"_{k}")
        sections += [replace(section, title=f"{one.change}: {section.title.lower()}") for section in each]
    return Report(title, lines, sections)


def comparison_sections(found: Comparison, suffix: str = "") -> list[Section]:
    """Return the sections about one comparison; `suffix` tells the files of its figure from those of others."""
    chart = Figure(
        f"loss_against_compute{suffix}",
        "Loss against compute, a dot a rung and side. Red: from the variant to where the base has its loss; its length "
        f"is the compute multiplier. Common: {_times(found.shift.common)}.",
        lambda ax: draw(ax, found),
    )
    return [
        Section("What differs", difference_lines(found)),
        Section("What the change is worth", [], [chart], [rung_grid(found)]),
        Section("What this rests on", rests_on(found)),
    ]


def headline(found: Comparison) -> list[str]:
    """Return the verdict, what would tell where it is open, and how often the rule promotes what is worth nothing."""
    verdict = found.verdict
    lines = [f"{verdict.word.upper()}: {verdict.reason}.", trend_line(found), *axis_lines(found)]
    if verdict.word == "cannot tell":
        lines.append(would_tell(found))
    return [*lines, false_promotions(found)]


def would_tell(found: Comparison) -> str:
    """Say how many seeds or which larger rung would settle the verdict, if the multiplier is as measured."""
    ways, verdict = [], found.verdict
    if verdict.seeds is not None:
        ways.append(f"{verdict.seeds} seeds at every rung")
    if verdict.larger is not None:
        ways.append(f"one more rung at {flops_text(verdict.larger)} FLOPs")
    if ways:
        return f"What would tell, if the multiplier is as measured: {' or '.join(ways)}."
    low, high = np.exp(found.shift.common.interval)
    return (
        f"No reasonable number of seeds would tell so small an effect from none; these runs exclude a multiplier below "
        f"{low:.3f} and above {high:.3f}."
    )


def false_promotions(found: Comparison) -> str:
    """State the error of the rule, and whether these runs are what it holds for."""
    rule = "promote where the whole interval of the common multiplier is above 1"
    if found.worth > 1:
        rule += f" and reaches {found.worth:g}"
    said = f"False promotions: a change that does nothing is promoted in at most {FALSE_PROMOTIONS:.0%} ({rule})"
    if found.rungs_share_seeds:
        said += "; more often here, where rungs share seeds and so noise: give each its own (seeds in the sweep file)"
    return f"{said}."


def trend_line(found: Comparison) -> str:
    """Say how the multiplier changes with compute."""
    trend = found.shift.trend.scaled(float(np.log(10)))
    low, high = (np.exp(end) for end in trend.interval)
    word = "it grows with compute" if low > 1 else "it shrinks with compute" if high < 1 else "no trend is seen"
    return f"Trend: the multiplier changes by {_times(trend)} per tenfold compute: {word}."


def axis_lines(found: Comparison) -> list[str]:
    """Say what the change is worth in tokens and in wall-clock, or why that is not known."""
    lines = []
    for name, axis in (("tokens", found.tokens), ("wall-clock", found.seconds)):
        if isinstance(axis, str):
            lines.append(f"In {name}: not known, for {axis}.")
        else:
            lines.append(f"In {name}: {_times(axis.common)}.")
    return lines


def difference_lines(found: Comparison) -> list[str]:
    """Return what differs beside the change, first, then the change, then what follows from it."""
    known, lines = found.differences, []
    beside = known.of("beside")
    if not known.configs:
        lines.append("Run directories are not at hand: only settings and columns of the ledgers were compared.")
    if beside and known.stated:
        lines.append(f"DIFFERS BESIDE THE CHANGE: {_listed(beside)}.")
    elif beside:
        lines.append(f"Which of these is the change is not stated (--change KEY): {_listed(beside)}.")
    elif known.configs:
        lines.append("Nothing differs beside the change: settings, data, tokenizer, revision and precision agree.")
    change = known.of("change")
    lines.append(f"The change: {_listed(change) or f'{found.base.name} -> {found.variant.name}'}.")
    if follows := known.of("follows"):
        lines.append(f"What comes with it, at the smallest rung: {_listed(follows)}.")
    return lines


def rung_grid(found: Comparison) -> Grid:
    """Return a row for each rung: losses, and multipliers in FLOPs, tokens and wall-clock."""
    rows = []
    for k, rung in enumerate(found.rungs):
        losses = [float(np.mean(list(side.losses.values()))) for side in (rung.base, rung.variant)]
        seeds = len(rung.common) if found.paired else (len(rung.base.losses), len(rung.variant.losses))
        rows.append(
            [count(rung.base.parameters), flops_text(rung.base.flops), f"{losses[0]:.4f}", f"{losses[1]:.4f}",
             str(seeds) if isinstance(seeds, int) else f"{seeds[0]} and {seeds[1]}", _times(found.shift.rungs[k]),
             *(_axis_cell(axis, k) for axis in (found.tokens, found.seconds))]
        )  # fmt: skip
    common = [_times(found.shift.common), *(_axis_cell(axis, None) for axis in (found.tokens, found.seconds))]
    rows.append(["all rungs", "", "", "", "", *common])
    pairs = "pairs" if found.paired else "seeds"
    header = ["body", "FLOPs", "base (nats)", "variant (nats)", pairs, "compute", "tokens", "wall-clock"]
    how = "by the scatter of its own seeds" if found.shift.by_seeds else "by the line through all rungs (one seed each)"
    flat = ", and none where the loss hardly falls" if None in found.shift.rungs else ""
    return Grid(
        header,
        rows,
        f"How many times the variant's compute, tokens or time the base needs for the variant's loss, with {LEVEL:.0%} "
        f"intervals; at a rung {how}{flat}. Losses on {found.base.eval_set}.",
    )


def rests_on(found: Comparison) -> list[str]:
    """Return what the verdict stands on: asymptote, pairs, data order, noise, and what was left out or is weak."""
    shift = found.shift
    if found.asymptote is None:
        lines = [
            "Asymptote: free. The slope of log loss in log compute is that of a parabola, held weakly to a floor of "
            "half the loss."
        ]
    else:
        lines = [f"Asymptote: pinned at {found.asymptote:g} nats, as that of {found.base.eval_set}."]
    if found.of_seeds:
        lines.append("Pairs: none. Seeds are what is compared, so that the runs of a rung are worth one.")
    elif found.paired:
        common = sum(len(rung.common) for rung in found.rungs)
        order = "their data order is shared too" if found.shares_order else "their data differ"
        lines.append(f"Pairs: {common} pairs of runs share their seed; {order}.")
        if (worth := int(shift.found.count.sum())) < common:
            lines.append(f"Their seeds are crossed, so that they are worth {worth} pairs.")
    else:
        lines.append("Pairs: none; base and variant share no seeds, so that the noise of both counts in full.")
    noise = shift.noise
    lines.append(
        f"Noise: {noise.sd:.2%} of the loss for the difference of one pair, {noise.freedom:.0f} degrees of freedom"
        + (" (over seeds and rungs)." if shift.found.freedom else " (over rungs; no rung has several seeds).")
    )
    if shift.differs:
        lines.append(
            f"Multipliers differ between rungs by more than seeds explain (p = {shift.unequal:.2g}): the common "
            "interval is by the scatter of rungs."
        )
    return [*lines, *(f"{note[0].upper()}{note[1:]}." for note in found.notes)]


def draw(ax: Any, found: Comparison) -> None:
    """Draw both ladders, the curve of the base, and the shift from each rung of the variant to it."""
    half = found.shift.common.value / 2
    x = found.shift.found.x
    grid = np.linspace(x.min() - np.log(ROOM), x.max() + np.log(ROOM), CURVE)
    sides = (("base", found.base.name, BLUE, "o", -half), ("variant", found.variant.name, ORANGE, "s", half))
    for side, name, colour, marker, moved in sides:
        ax.plot(np.exp(grid), np.exp(found.shift.slope.log_loss(grid + moved)), color=colour, lw=1.3)
        flops = [getattr(rung, side).flops for rung in found.rungs]
        losses = [float(np.mean(list(getattr(rung, side).losses.values()))) for rung in found.rungs]
        ax.plot(flops, losses, marker, color=colour, ms=4, label=f"{side}: {name}", zorder=4)
        texts = [f"{name}: C {flops_text(c)}, loss {loss:.4f}" for c, loss in zip(flops, losses, strict=True)]
        label(ax, np.array(flops), np.array(losses), texts)
    for rung, shift in zip(found.rungs, found.shift.rungs, strict=True):
        if shift is None:
            continue
        loss, flops = float(np.mean(list(rung.variant.losses.values()))), rung.variant.flops
        ax.plot([flops, flops * np.exp(shift.value)], [loss, loss], color=RED, lw=2, solid_capstyle="butt", zorder=3)
        place = {"textcoords": "offset points", "ha": "right", "fontsize": 7.5, "color": RED}
        ax.annotate(f"{np.exp(shift.value):.2f}x", (flops, loss), (-5, -9), **place)
    log_x(ax, "C", NATS)
    ax.legend()


def power_grid(found: Power) -> Grid:
    """Return the smallest multiplier that each number of seeds would see."""
    rows = [[str(seeds), f"{value:.3f}"] for seeds, value in found.visible.items()]
    flops = f"{flops_text(found.flops[0])} to {flops_text(found.flops[-1])} FLOPs"
    return Grid(
        ["seeds", "smallest multiplier"],
        rows,
        f"Promoted with a probability of 80 %, by {len(found.flops)} rungs of {flops}. Noise of one run: "
        f"{found.noise:.2%} of the loss, {found.by}. The variant is taken to be as noisy, and pairs to share nothing.",
    )


def seed_lines(found: Power) -> list[str]:
    """Say how large the noise of initial values, of the order and of both is, as far as the seeds tell them apart."""
    noise = found.seeds
    if not noise.freedom:
        return ["Seeds: one at every rung, so that their noise is not measured (seeds: 2 in the sweep file)."]
    if math.isnan(noise.init) and math.isnan(noise.order):
        return [
            f"Seeds: {noise.both:.2%} of the loss. Initial values and data order changed together; "
            "seeds: {init: 2, order: 2} tells them apart."
        ]
    parts = {"initial values alone": noise.init, "data order alone": noise.order, "both": noise.both}
    return ["Seeds: " + ", ".join(f"{what} {sd:.2%} of the loss" for what, sd in parts.items() if sd == sd) + "."]


def _times(one: Estimate | None) -> str:
    if one is None:
        return "-"
    low, high = np.exp(one.interval)
    return f"{np.exp(one.value):.3f} [{low:.3f}, {high:.3f}]"


def _axis_cell(axis: Axis | str, rung: int | None) -> str:
    if isinstance(axis, str):
        return "-"
    return _times(axis.common if rung is None else axis.rungs[rung])


def _listed(found: tuple[Difference, ...]) -> str:
    return "; ".join(one.text for one in found)
