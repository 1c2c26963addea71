"""A comparison of two ladders: matched rungs, what differs, the shift between them, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from launch.scaling.compare.differences import Differences, differences
from launch.scaling.compare.rungs import Rung, Side
from launch.scaling.compare.seeds import Seed
from launch.scaling.compare.shift import FEWEST_RUNGS, Estimate, Shift, shift
from launch.scaling.compare.sides import TRIALS, RungRuns, Runs, rungs_of, seed_of
from launch.scaling.compare.verdict import Verdict, judge
from launch.scaling.other.changes import SEEDS
from launch.scaling.table.checks import names_text
from launch.scaling.table.reading import Row
from launch.show.text import flops_text
from trainer.contract.errors import UserError

APART = 0.1  # of log FLOPs between two rungs of one ladder
SAME_RUNG = 0.4  # of the ladder's narrowest step, by which the rungs of two ladders may lie apart
ORDER = ("data", "batch.tokens_per_step", "skip_steps", "tokens", "steps", "model.context_length")  # of samples
FLAT = 0.05  # of log tokens or seconds over a whole ladder: what hardly varies is no axis


@dataclass(frozen=True)
class Axis:
    """The multiplier in tokens or in seconds: logarithms at each rung, and the common one."""

    rungs: tuple[Estimate | None, ...]
    common: Estimate


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
    _refuse_other_tokens(base, variant)
    ladders = [rungs_of(runs) for runs in (base, variant)]
    for runs, ladder in zip((base, variant), ladders, strict=True):
        _refuse_no_ladder(runs, ladder)
    matched, unmatched = _match(*ladders)
    if len(matched) < FEWEST_RUNGS:
        raise UserError(
            f"{base.name} and {variant.name} have {len(matched)} rungs in common, and a comparison needs "
            f"{FEWEST_RUNGS}: {'; '.join(unmatched)}: train both at the same sizes and lengths"
        )
    complaints = [*_ended_badly(base), *_ended_badly(variant), *_tuning(matched, base, variant)]
    if complaints and not anyway:
        raise UserError(f"{'; '.join(complaints)}; --anyway compares what is there, with this said")
    rungs = tuple(Rung(_side(one, base), _side(other, variant)) for one, other in matched)
    found = shift(rungs, asymptote)
    pairs = [_pair(one, other, base, variant) for one, other in matched]
    ledgers = base.ledger, variant.ledger
    pairs_share = found.found.paired and not (base.same_init or base.same_order)
    same = [] if pairs_share else [key for key in SEEDS if key not in change]
    return Comparison(
        base, variant, rungs, differences(pairs, ledgers, change, same), found,
        _axis(rungs, found, "tokens"), _axis(rungs, found, "seconds"), judge(found, worth), worth, asymptote,
        (*complaints, *unmatched, *_untuned(matched)),
    )  # fmt: skip


def _refuse_other_tokens(base: Runs, variant: Runs) -> None:
    """Raise UserError where a nat per token means two things."""
    for column, what in (("tokenizer_hash", "tokenizers"), ("vocab_size", "vocabularies")):
        kinds = [sorted({str(row[column])[:12] for row in runs.done}) for runs in (base, variant)]
        if kinds[0] != kinds[1] or len(kinds[0]) > 1:
            raise UserError(
                f"losses per token of different {what} cannot be compared: {base.name} has {', '.join(kinds[0])}, "
                f"{variant.name} {', '.join(kinds[1])}; train both on one tokenizer, or compare bits per byte by hand"
            )


def _refuse_no_ladder(runs: Runs, ladder: Sequence[RungRuns]) -> None:
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


def _ended_badly(runs: Runs) -> list[str]:
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


def _tuning(matched: Sequence[tuple[RungRuns, RungRuns]], base: Runs, variant: Runs) -> list[str]:
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


def _untuned(matched: Sequence[tuple[RungRuns, RungRuns]]) -> list[str]:
    if any(rung.tried > 1 for pair in matched for rung in pair):
        return []
    return [
        "weak: one learning rate each, so that a change that moves the best one is judged by the wrong one (tune both: "
        "optim.lr_factor: [0.5, 1, 2])"
    ]


def _side(rung: RungRuns, runs: Runs) -> Side:
    seconds = [row.get("seconds") for row in rung.rows]
    return Side(
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


def _axis(rungs: Sequence[Rung], found: Shift, name: str) -> Axis | str:
    """Return the multiplier in another currency than FLOPs, by how that grows along the base's ladder."""
    pairs = [(rung.base.tokens, rung.variant.tokens) for rung in rungs]
    if name == "seconds":
        known = [(rung.base.seconds, rung.variant.seconds) for rung in rungs]
        pairs = [(one, other) for one, other in known if one is not None and other is not None]
    if len(pairs) < len(rungs):
        return "the ledger does not say how long each run took"
    base, variant = np.log(np.array(pairs)).T
    if np.ptp(base) < FLAT:
        return f"every rung of the base has the same {name}"
    flops = np.log([rung.base.flops for rung in rungs])
    growth = float(np.polyfit(flops, base, 1)[0])
    if growth <= 0:
        return f"the {name} of the base do not grow with its compute"
    beyond = found.found.beyond  # the shift is of FLOPs over the variant's: what it has more comes on top
    each = tuple(
        one and _converted(one, growth, float(b), float(v - o))
        for one, b, v, o in zip(found.rungs, beyond, variant, base, strict=True)
    )
    weights = found.found.count * found.slope.values**2
    less = float(np.average(variant - base, weights=weights))
    return Axis(each, _converted(found.common, growth, float(np.average(beyond, weights=weights)), less))


def _converted(one: Estimate, growth: float, beyond: float, less: float) -> Estimate:
    return Estimate(growth * (one.value + beyond) - less, growth * one.error, one.freedom)
