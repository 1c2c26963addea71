"""A report about one-at-a-time changes: perplexity by change with its spread, and the runs that diverged."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from launch.scaling.other.changes import Change, Changes
from launch.scaling.other.equal_sizes import CLEAR
from launch.scaling.report.axes import PERPLEXITY, log_x, plain_number
from launch.scaling.report.figures import BLUE, GREY, RED
from launch.scaling.report.model import Figure, Grid, Report, Section

STEP = 0.04  # of the highest perplexity, between the crosses to the right of it


def changes_report(found: Changes, title: str) -> Report:
    """Return the report: what helps and what hurts beyond the noise of seeds, the table, and the picture of it."""
    chart = Figure(
        "perplexity_by_change",
        "Perplexity by change: a dot a run, a bar at the mean. Dashed: the base. Crosses: diverged or failed.",
        lambda ax: draw(ax, found),
    )
    return Report(title, headline(found), [Section("The changes", [], [chart], [changes_grid(found)])])


def headline(found: Changes) -> list[str]:
    """Say which changes help or hurt by more than seeds explain, and which runs did not end."""
    lines = []
    compared = [(change, *beyond) for change in found.each if (beyond := found.beyond_base(change)) is not None]
    if found.base is not None and found.base.losses:
        lines.append(
            f"The base reaches a perplexity of {np.exp(found.base.loss):.2f}, the mean of {_seeds(found.base)}."
        )
    clear = [(c, d) for c, d, error in compared if abs(d) > CLEAR * error]
    for word, chosen in (("Better", [x for x in clear if x[1] < 0]), ("Worse", [x for x in clear if x[1] > 0])):
        if chosen:
            told = "; ".join(f"{c.name} {np.exp(d) - 1:+.1%}" for c, d in sorted(chosen, key=lambda x: x[1]))
            lines.append(f"{word}, in perplexity, by more than seeds explain: {told}.")
    within = [c.name for c, d, error in compared if not abs(d) > CLEAR * error]
    if within:
        lines.append(f"Not told apart from the base by these seeds: {'; '.join(within)}.")
    if found.freedom:
        lines.append(
            f"Noise: a standard deviation of {found.noise:.3f} nats over seeds ({found.freedom} degrees of freedom)."
        )
    lines += [f"{c.name}: {bad_ends(c)} of {c.runs} runs." for c in found.each if c.badly]
    return lines


def changes_grid(found: Changes) -> Grid:
    """Return a row for each change: perplexity and its spread over seeds, distance from the base, bad ends."""
    rows = []
    for change in found.each:
        beyond = found.beyond_base(change)
        ended = bool(change.losses)
        perplexities = np.exp(change.losses)
        spread = f"{perplexities.min():.2f} to {perplexities.max():.2f}" if len(change.losses) > 1 else "-"
        rows.append(
            [change.name, f"{np.exp(change.loss):.2f}" if ended else "none", spread,
             "-" if math.isnan(change.spread) else f"{change.spread:.3f}",
             "-" if beyond is None else _beyond(*beyond), f"{len(change.losses)} of {change.runs}", bad_ends(change)]
        )  # fmt: skip
    header = ["change", "perplexity", "over seeds", "sd (nats)", "nats above the base", "ended", "bad ends"]
    caption = (
        f"Perplexity on {found.eval_set}: of the mean loss over the seeds that ended. A change with bad ends has the "
        "mean of its lucky runs: read it with the last column."
    )
    return Grid(header, rows, caption)


def _beyond(distance: float, error: float) -> str:
    return f"{distance:+.3f}" + ("" if math.isnan(error) else f" ± {CLEAR * error:.3f}")


def bad_ends(change: Change) -> str:
    """Say how many runs ended badly, and how: `2 diverged`."""
    return ", ".join(f"{number} {word}" for word, number in Counter(text.split()[0] for text in change.badly).items())


def _seeds(change: Change) -> str:
    return "1 run" if change.runs == 1 else f"{len(change.losses)} seeds"


def draw(ax: Any, found: Changes) -> None:
    """Draw a line of dots for each change, the first at the top."""
    height = len(found.each)
    ended = [loss for change in found.each for loss in change.losses]
    edge = np.exp(max(ended)) if ended else 1.0
    for k, change in enumerate(found.each):
        y = height - 1 - k
        if change.losses:
            ax.plot(np.exp(change.losses), [y] * len(change.losses), "o", color=BLUE, ms=4, alpha=0.6, mew=0)
            ax.plot([np.exp(change.loss)], [y], "|", color=BLUE, ms=11, mew=2)
        if change.badly:
            beyond = [edge * (1 + STEP * (1 + i)) for i in range(len(change.badly))]
            ax.plot(beyond, [y] * len(beyond), "x", color=RED, ms=6)
    if found.base is not None and found.base.losses:
        ax.axvline(np.exp(found.base.loss), color=GREY, lw=0.9, ls="--")
    log_x(ax, PERPLEXITY, "", plain_number)
    ax.set_yticks(range(height), [change.name for change in reversed(found.each)], fontsize=7)
    ax.figure.set_figheight(max(2.6, 0.24 * height + 0.9))
    ax.figure.subplots_adjust(left=0.42, bottom=0.55 / ax.figure.get_figheight())
