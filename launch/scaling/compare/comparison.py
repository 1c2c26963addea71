"""A comparison of two ladders: matched rungs, what differs, the shift between them, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.compare.axes import Axis, axis_of
from launch.scaling.compare.checks import (
    refuse_no_ladder,
    refuse_off_the_ladder,
    refuse_other_tokens,
    uneven_tuning,
    untuned,
    without_end,
)
from launch.scaling.compare.differences import Differences, differences
from launch.scaling.compare.ladder_runs import RungRuns, rungs_of, seed_of
from launch.scaling.compare.rungs import Arm, Rung
from launch.scaling.compare.seeds import Seed
from launch.scaling.compare.shift import FEWEST_RUNGS, Shift, shift
from launch.scaling.compare.sides import Runs
from launch.scaling.compare.verdict import Verdict, judge
from launch.scaling.other.changes import SEEDS
from launch.scaling.table.reading import Row
from launch.show.text import flops_text
from trainer.contract.errors import UserError

SAME_RUNG = 0.4  # of the ladder's narrowest step, by which the rungs of two ladders may lie apart
ORDER = (
    "data",
    "batch.tokens_per_step",
    "batch.warmup",
    "skip_steps",
    "tokens",
    "steps",
    "model.context_length",
)  # of samples


@dataclass(frozen=True)
class Comparison:
    """Base against variant. `notes`: what was left out, and what the verdict stands on beside its interval."""

    base: Runs
    variant: Runs
    rungs: tuple[Rung, ...]
    differences: Differences
    shift: Shift
    tokens: Axis | str  # or why there is none
    seconds: Axis | str
    verdict: Verdict
    worth: float
    asymptote: float | None
    notes: tuple[str, ...]

    @property
    def of_seeds(self) -> bool:
        """Whether seeds are what is compared."""
        return self.base.same_init or self.base.same_order

    @property
    def paired(self) -> bool:
        """Whether the noise is that of pairs of one seed."""
        return self.shift.found.paired and not self.of_seeds

    @property
    def rungs_share_seeds(self) -> bool:
        """Whether one seed was used at several rungs: runs of one width then begin alike, and read the same text."""
        seeds = [seed for rung in rungs_of(self.base) for seed in {int(row["seed"]) for row in rung.rows}]
        return len(seeds) > len(set(seeds))

    @property
    def shares_order(self) -> bool:
        """Whether a pair reads the same tokens in the same order: no setting of data, batch or length differs."""
        return self.paired and not any(one.key.startswith(ORDER) for one in self.differences.found)


def compare(
    base: Runs, variant: Runs, *, asymptote: float | None = None, worth: float = 1.0, change: Sequence[str] = (),
    anyway: bool = False,
) -> Comparison:  # fmt: skip
    """Compare two ladders. Raises UserError for ladders that cannot be compared, with what to do.

    `anyway` goes on with runs that diverged, optima at the edge of what was tried and a base that was tuned less: each
    is a note then.
    """
    refuse_other_tokens(base, variant)
    ladders = [rungs_of(runs) for runs in (base, variant)]
    for runs, ladder in zip((base, variant), ladders, strict=True):
        refuse_no_ladder(runs, ladder)
    matched, unmatched = _match(*ladders)
    if len(matched) < FEWEST_RUNGS:
        raise UserError(
            f"{base.name} and {variant.name} have {len(matched)} rungs in common, and a comparison needs "
            f"{FEWEST_RUNGS}: {'; '.join(unmatched)}: train both at the same sizes and lengths"
        )
    complaints = [*without_end(base), *without_end(variant), *uneven_tuning(matched, base, variant)]
    if complaints and not anyway:
        raise UserError(f"{'; '.join(complaints)}; --anyway compares what is there, with this said")
    rungs = tuple(Rung(_arm(one, base), _arm(other, variant)) for one, other in matched)
    refuse_off_the_ladder(rungs)
    found = shift(rungs, asymptote)
    pairs = [_pair(one, other, base, variant) for one, other in matched]
    ledgers = base.ledger, variant.ledger
    pairs_share = found.found.paired and not (base.same_init or base.same_order)
    same = [] if pairs_share else [key for key in SEEDS if key not in change]
    return Comparison(
        base, variant, rungs, differences(pairs, ledgers, change, same), found,
        axis_of(rungs, found, "tokens"), axis_of(rungs, found, "seconds"), judge(found, worth), worth, asymptote,
        (*complaints, *unmatched, *untuned(matched)),
    )  # fmt: skip


def _match(base: Sequence[RungRuns], variant: Sequence[RungRuns]) -> tuple[list[tuple[RungRuns, RungRuns]], list[str]]:
    """Pair rungs of nearly the same compute, and say which have no partner."""
    ends = [np.log([rung.flops for rung in ladder]) for ladder in (base, variant)]
    near = SAME_RUNG * min(float(np.diff(one).min()) for one in ends)
    matched, taken = [], set()
    for k, at in enumerate(ends[0]):
        other = int(np.argmin(np.abs(ends[1] - at)))
        if abs(ends[1][other] - at) < near:
            matched.append((base[k], variant[other]))
            taken |= {(0, k), (1, other)}
    without = [
        f"left out: {word} at {flops_text(rung.flops)} FLOPs, which the other side lacks"
        for side, (word, ladder) in enumerate((("base", base), ("variant", variant)))
        for k, rung in enumerate(ladder)
        if (side, k) not in taken
    ]
    return matched, without


def _arm(rung: RungRuns, runs: Runs) -> Arm:
    seconds = [row.get("seconds") for row in rung.rows]
    return Arm(
        float(np.mean([row["params_body"] for row in rung.rows])),
        float(np.mean([row["tokens"] for row in rung.rows])),
        rung.flops,
        None if None in seconds or 0 in seconds else float(np.mean([float(value) for value in seconds if value])),
        _losses(rung, runs),
    )


def _losses(rung: RungRuns, runs: Runs) -> dict[Seed, float]:
    """Return losses by seed. Where seeds are what is compared, all runs of a rung share them, and are worth one."""
    losses = {seed_of(row, runs): float(row["loss"]) for row in rung.rows}
    if not (runs.same_init or runs.same_order):
        return losses
    return {("", ""): float(np.exp(np.mean(np.log(list(losses.values())))))}


def _pair(one: RungRuns, other: RungRuns, base: Runs, variant: Runs) -> tuple[Row, Row]:
    """Return a run of each side, with the same seeds where there are such."""
    theirs: Mapping[object, Row] = {seed_of(row, variant): row for row in other.rows}
    return next(((r, theirs[s]) for r in one.rows if (s := seed_of(r, base)) in theirs), (one.rows[0], other.rows[0]))
