"""What makes a comparison impossible or unfair: each is named, with the numbers and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from launch.scaling.compare.ladder_runs import RungRuns, seed_of
from launch.scaling.compare.rungs import Rung
from launch.scaling.compare.shift import FEWEST_RUNGS
from launch.scaling.compare.sides import TRIALS, Runs
from launch.scaling.table.checks import names_text
from launch.scaling.table.reading import Row
from launch.show.text import flops_text
from trainer.contract.errors import UserError

APART = 0.1  # of log FLOPs between two rungs of one ladder


def refuse_other_tokens(base: Runs, variant: Runs) -> None:
    """Raise UserError where a nat per token means two things."""
    for column, what in (("tokenizer_hash", "tokenizers"), ("vocab_size", "vocabularies")):
        kinds = [sorted({str(row[column])[:12] for row in runs.done}) for runs in (base, variant)]
        if kinds[0] != kinds[1] or len(kinds[0]) > 1:
            raise UserError(
                f"losses per token of different {what} cannot be compared: {base.name} has {', '.join(kinds[0])}, "
                f"{variant.name} {', '.join(kinds[1])}; train both on one tokenizer, or compare bits per byte by hand"
            )


def refuse_no_ladder(runs: Runs, ladder: Sequence[RungRuns]) -> None:
    """Raise UserError for fewer than three sizes, for two of equal compute, and for two runs of one seed."""
    flops = [rung.flops for rung in ladder]
    if len(ladder) < FEWEST_RUNGS:
        shown = ", ".join(flops_text(value) for value in flops)
        raise UserError(
            f"{runs.name} has {len(ladder)} size{'s' if len(ladder) > 1 else ''} ({shown} FLOPs): how much compute a "
            f"difference of losses is worth follows from {FEWEST_RUNGS} at least; add rungs to the sweep"
        )
    steps = np.diff(np.log(flops))
    if steps.min() < APART:
        k = int(np.argmin(steps))
        raise UserError(
            f"{runs.name} is no ladder: two of its sizes and lengths cost the same ({flops_text(flops[k], 3)} and "
            f"{flops_text(flops[k + 1], 3)} FLOPs); keep one length or one ratio with --where, such as tokens=VALUE"
        )
    for rung in ladder:
        seeds = [seed_of(row, runs) for row in rung.rows]
        if twice := [row["name"] for row, seed in zip(rung.rows, seeds, strict=True) if seeds.count(seed) > 1]:
            raise UserError(
                f"{runs.name} has several runs of one seed at one rung: {names_text(twice)}; keep one kind with --where"
            )


def refuse_off_the_ladder(rungs: Sequence[Rung]) -> None:
    """Raise UserError where no rung of one side has a loss like any of the other's."""
    base, variant = ([getattr(rung, side).loss for rung in rungs] for side in ("base", "variant"))
    for word, worse, better in (("variant", variant, base), ("base", base, variant)):
        if min(worse) > max(better):
            other = "base" if word == "variant" else "variant"
            raise UserError(
                f"the {word} is worse at its best rung ({min(worse):.4f} nats) than the {other} at its worst "
                f"({max(better):.4f}): the ladders have no loss in common, and no compute on them makes up for that"
            )


def without_end(runs: Runs) -> list[str]:
    """Name runs without an end. A trial that diverged beside one that ended is what trials are for."""
    ended = {_without_trials(row) for row in runs.done}
    badly = [row for row in runs.badly if _without_trials(row) not in ended]
    if not badly:
        return []
    each = [f"{row['name']} ({row['status']} at step {row['step']})" for row in badly]
    return [
        f"{len(badly)} run{'s' if len(badly) > 1 else ''} of {runs.name} did not end: "
        f"{names_text(each, limit=4, letters=200)}; train again what failed (escala sweep run --failed), and a variant "
        "that diverges with other settings"
    ]


def _without_trials(row: Row) -> tuple[tuple[str, str], ...]:
    settings: Mapping[str, object] = row.get("settings") or {"cell": row["cell"]}
    return tuple(sorted((key, str(value)) for key, value in settings.items() if key not in TRIALS))


def uneven_tuning(matched: Sequence[tuple[RungRuns, RungRuns]], base: Runs, variant: Runs) -> list[str]:
    """Say where the best setting lies at the edge of those tried, and where the base had fewer tries."""
    found = []
    for runs, side in ((base, 0), (variant, 1)):
        edges = [pair[side] for pair in matched if pair[side].at_the_end]
        if edges:
            at = ", ".join(f"{rung.rows[0]['lr']:.2g} at {flops_text(rung.flops)} FLOPs" for rung in edges)
            found.append(f"{runs.name}: the best learning rate is the last of those tried ({at}): try further ones")
    if any(one.tried < other.tried for one, other in matched):
        tries = [max(pair[side].tried for pair in matched) for side in (0, 1)]
        found.append(
            f"the base is not tuned as the variant is: {tries[0]} setting{'s' if tries[0] > 1 else ''} of learning "
            f"rate and batch against {tries[1]}: give {base.name} the same tries (optim.lr_factor)"
        )
    return found


def untuned(matched: Sequence[tuple[RungRuns, RungRuns]]) -> list[str]:
    """Return what is weak where no rung tried more than one setting, in words; nothing where any did."""
    if any(rung.tried > 1 for pair in matched for rung in pair):
        return []
    return [
        "weak: one learning rate each, so that a change that moves the best one is judged by the wrong one (tune both: "
        "optim.lr_factor: [0.5, 1, 2])"
    ]
