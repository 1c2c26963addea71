"""Tables about what a fit decides and what that rests on: for the terminal and for the report alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from launch.scaling.laws.base import MULTIPLIERS
from launch.scaling.report.model import Grid, interval
from launch.scaling.table.counting import C_MEANING, N_CONVENTIONS
from launch.show.text import count, flops_text

if TYPE_CHECKING:
    from launch.scaling.laws.groups import Behind
    from launch.scaling.other.families import Families
    from launch.scaling.questions.conventions import Counted
    from launch.scaling.questions.next_run import Decision, Estimate
    from launch.scaling.questions.published import Against
    from launch.scaling.questions.sensitivity import Choice, Sensitivity

NOTHING = 1e-9  # nats: a floor below this is none
ENDLESS = 1e18  # parameters, tokens, or tokens per parameter: an interval that reaches as far has no end
MOST_NAMED = 8  # groups of a leave-out table that are listed one by one


def decision_row(d: Decision) -> list[str]:
    """Return budget, N*, D*, D*/N*, loss and waste with their 95 % intervals."""
    waste = "-" if d.wasted is None or d.wasted.interval is None else f"up to {d.wasted.interval[1]:.1%}"
    ratio = f"{d.tokens_per_parameter.value:.1f}{ends(d.tokens_per_parameter, '.1f')}"
    return [
        flops_text(d.flops), counted_estimate(d.N), counted_estimate(d.D), ratio,
        f"{d.loss.value:.4f}{ends(d.loss, '.4f')}", waste,
    ]  # fmt: skip


def decision_grid(decisions: Sequence[Decision]) -> Grid:
    """Return one row for each budget."""
    header = ["FLOPs", "N*", "D*", "D*/N*", "loss (nats)", "waste"]
    caption = (
        "N* parameters on D* tokens are the best run for a budget, with 95 % intervals over the replicates. Waste: the "
        "share of the budget lost if a replicate is the truth."
    )
    return Grid(header, [decision_row(d) for d in decisions], caption)


def parts_grid(d: Decision) -> Grid:
    """Return a decision, and below it what each part of its interval alone would say."""
    rows = [decision_row(d)]
    for part in d.parts:
        label = part.what
        rows.append([f"  {label}", counted_ends(part.N), "", "", interval(*part.loss, ".4f"), ""])
    caption = (
        "N* parameters on D* tokens are the best run for the budget; brackets hold 95 %. Below: what each part of the "
        "interval alone would say. Waste: the share of the budget lost if a draw is the truth (95 %)."
    )
    return Grid(["FLOPs", "N*", "D*", "D*/N*", "loss (nats)", "waste"], rows, caption)


def sensitivity_grid(s: Sensitivity) -> Grid:
    """Return the best run for the budget by each law, and without each group (its range where there are many)."""
    from launch.scaling.questions.sensitivity import known, ranges  # late: a report of a ladder asks no decision

    rows = [_choice_row(f"law {c.law}" + ("" if c.share is None else f" ({c.share:.0%})"), c) for c in s.laws]
    lost = []
    for name, choices in s.sets():
        if name != "laws" and len(choices) <= MOST_NAMED:
            rows += [_choice_row(f"without {c.by} {_group(c.by, c.without)}", c) for c in choices]
        if len(known(choices)) > 1:
            spans = ranges(choices)
            low, high = spans["N"]
            label = "over laws" if name == "laws" else f"over {len(known(choices))} fits {name} each"
            span = [f"[{count(low)}, {count(high)}]", interval(*spans["tokens_per_parameter"], ".1f")]
            rows.append([label, *span, interval(*spans["loss"], ".4f")])
        unknown = [c for c in choices if c.N is None]
        lost += [
            f" {name.capitalize()}, {len(unknown)} of {len(choices)} fits cannot tell: {c.reason}." for c in unknown[:1]
        ]
    caption = f"The best run for {flops_text(s.flops)} FLOPs." + "".join(lost)
    return Grid(["fit", "N*", "D*/N*", "loss (nats)"], rows, caption)


def _group(by: str, label: str) -> str:
    """Write a group as people do: sizes and tokens are stored as 4.6e+04."""
    return " to ".join(count(float(end)) for end in label.split(" to ")) if by in ("N", "D") else label


def _choice_row(label: str, c: Choice) -> list[str]:
    if c.N is None or c.tokens_per_parameter is None or c.loss is None:
        return [label, "cannot tell", "-", "-"]
    return [label, count(c.N), f"{c.tokens_per_parameter:.1f}", f"{c.loss:.4f}"]


def counting_grid(found: Sequence[Counted]) -> Grid:
    """Return the parameters of one law under every way to count."""
    names = [n for n in found[0].values if n not in MULTIPLIERS] if found else []
    rows = [
        [N_CONVENTIONS.get(c.N, c.N), C_MEANING.get(c.C, c.C), *(parameter_text(n, c.values[n]) for n in names),
         "-" if c.exponent is None else f"{c.exponent:.3f}", c.status]
        for c in found
    ]  # fmt: skip
    return Grid(["N counts", "C counts", *names, "a", "certificate"], rows, "a: the exponent of N* ~ C^a.")


def parameter_text(name: str, value: float) -> str:
    """Write a parameter; a floor that the solver drove to nothing is 0."""
    return "0" if name == "E" and value < NOTHING else f"{value:.4g}"


def behind_grid(found: Sequence[Behind], reference: str) -> Grid:
    """Return how many times the parameters, tokens and FLOPs of the reference each group needs at equal loss."""
    exact = any(b.exact_flops is not None for b in found)
    rows = [
        [b.group, _times(b.parameters), _times(b.tokens), _times(b.flops), *([_times(b.exact_flops)] if exact else [])]
        for b in found
    ]
    caption = f"How many times those of {reference} a family needs for the same loss, with 95 % intervals."
    caption += " Exact FLOPs: as the table counts them, at the middle size of the reference." if exact else ""
    return Grid(["family", "parameters", "tokens", "6 N D", *(["exact FLOPs"] if exact else [])], rows, caption)


def families_grid(found: Families) -> Grid:
    """Return the law of each family, and the best run for one budget by it."""
    exact = any(f.exact_flops is not None for f in found.each)
    rows = []
    for f in found.each:
        d, a = f.decision, f.exponent
        allocation = ["-"] * 4
        if d is not None and a is not None:
            around = "" if a[1] is None or a[2] is None else f" {interval(a[1], a[2])}"
            loss = f"{d.loss.value:.4f}{ends(d.loss, '.4f')}"
            allocation = [f"{a[0]:.3f}{around}", counted_estimate(d.N), counted_estimate(d.D), loss]
        counted = ["-" if f.exact_flops is None else flops_text(f.exact_flops)] if exact else []
        rows.append([f.name, str(f.runs), f.saved.status, *allocation, *counted])
    header = ["family", "runs", "certificate", "a", "N*", "D*", "loss (nats)", *(["exact FLOPs"] if exact else [])]
    how = "fits of their own" if found.separate else "one fit with shared exponents"
    caption = f"By {how}. The best run for 6 N D = {flops_text(found.flops)} FLOPs; a: the exponent of N* ~ C^a there."
    return Grid(header, rows, caption)


def family_parameters(found: Families) -> Grid:
    """Return the parameters of each family's own law."""
    rows = [
        [f.name, name, parameter_text(name, value), interval(*f.intervals[name], ".4g") if name in f.intervals else "-"]
        for f in found.each
        for name, value in f.values.items()
    ]
    return Grid(["family", "parameter", "value", "95 % (bootstrap)"], rows, found.each[0].saved.law.formula)


def _times(value: tuple[float, float | None, float | None] | None) -> str:
    if value is None:
        return "-"
    middle, low, high = value
    return f"{middle:.3g}x" + ("" if low is None or high is None else f" {interval(low, high, '.3g')}")


def against_line(a: Against) -> str:
    """Say how well published parameters describe the runs."""
    given = ", ".join(f"{n}={v:.6g}" for n, v in a.params.items())
    line = (
        f"against {given}: objective {a.objective:.9g}, {a.times_the_optimum:.6g} times the optimum; predicted losses "
        f"are off by {a.mean_error:.2%} on average, {a.largest_error:.2%} at most"
    )
    return line + (f"; outside the 95 % intervals: {', '.join(a.outside)}" if a.outside else "")


def counted_estimate(e: Estimate) -> str:
    """Write a number of parameters or tokens with its interval."""
    return count(e.value) + ("" if e.interval is None else f" {counted_ends(e.interval)}")


def counted_ends(pair: tuple[float, float]) -> str:
    """Write an interval of numbers of parameters or tokens; ends that no run could have are 0 or inf."""
    return f"[{', '.join('0' if end < 1 else 'inf' if end > ENDLESS else count(end) for end in pair)}]"


def ends(e: Estimate, style: str) -> str:
    """Write the interval of an estimate, with a space before it, or nothing."""
    if e.interval is None:
        return ""
    low, high = e.interval
    return f" {interval(low, high if high < ENDLESS else math.inf, style)}"
