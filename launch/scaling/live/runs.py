"""Finished runs as curves, and which of them are like a run that has not started."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from launch.scaling.arrays import Array
from trainer.config.load import load_written
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.expected import PARAMETER_NORMS, norm_of
from trainer.contract.plain_json import read_object, rows_of
from trainer.contract.run_dir import RunDir
from trainer.plan.counting import count_parameters
from trainer.plan.length import total_steps, total_tokens
from trainer.plan.likeness import RATE, likeness, unlikeness

FEWEST_POINTS, FEWEST_NORMS = 16, 8  # of a curve
LATEST_FIRST = 0.1  # share of a run by which its record must have begun


@dataclass(frozen=True)
class Kind:
    """What a run is, as far as its curve depends on it. `like` has all but size, length, seed."""

    name: str
    N: float  # parameters of the body
    D: float  # tokens of the whole run
    steps: int
    tokens_per_step: int
    like: dict[str, Any]
    seed: int = 0  # of the data order

    @property
    def like_but_rate(self) -> dict[str, Any]:
        """The same without the learning rate, which a ladder may tune for each size."""
        optim = {key: value for key, value in self.like["optim"].items() if key not in RATE}
        return {**self.like, "optim": optim}


@dataclass(frozen=True)
class Finished:
    """A finished run: its kind, the logged steps (n,), the log losses there (n,), and the last log loss held out.

    After `until` steps it left data out. `norms`: steps (m,) and the log of the norm of its matrices, where recorded.
    `data_hash`: of its prepared data.
    """

    kind: Kind
    steps: Array
    log_loss: Array
    final: float
    until: float = math.inf
    norms: tuple[Array, Array] | None = None
    data_hash: str | None = None


def kind_of(config: RunConfig, name: str) -> Kind:
    """Return the kind of a run, from its configuration alone. A vocabulary that is not known yet is not compared."""
    model = config.model.with_any_vocabulary()
    body, steps = count_parameters(model).body, total_steps(config)
    tokens, batch = float(total_tokens(config)), config.batch.tokens_per_step
    return Kind(name, float(body), tokens, steps, batch, likeness(config), config.order_seed)


def read_finished(run_dir: RunDir, eval_set: str = "held_out") -> Finished:
    """Read a run that is done. Raises `UserError` for one without a usable curve, and says what it lacks."""
    try:
        config = load_written(run_dir.config)
        result = read_object(run_dir.result, "evaluations")
        losses = {one["eval_set"]: float(one["loss"]) for one in result["evaluations"]}
    except FileNotFoundError as error:
        raise UserError(f"{run_dir.root} has no {Path(error.filename).name}: it is no finished run") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run_dir.result} cannot be read: {error!r}") from None
    if eval_set not in losses:
        raise UserError(f"{run_dir.root} was not evaluated on {eval_set!r} (on {', '.join(losses) or 'nothing'})")
    steps, log_loss = curve_of(run_dir, config)
    if len(steps) < FEWEST_POINTS:
        raise UserError(
            f"{run_dir.root} has {len(steps)} rows of training in metrics.jsonl, and a curve needs {FEWEST_POINTS}: "
            "lower tracking.log_every"
        )
    kind = kind_of(config, run_dir.root.name)
    if steps[0] > LATEST_FIRST * kind.steps:
        raise UserError(f"the record of {run_dir.root} begins at step {steps[0]:.0f} of {kind.steps} only")
    until, norms = steps_before_skipped(run_dir, config), _norms_of(run_dir, kind)
    final, data_hash = float(np.log(losses[eval_set])), result.get("data_hash")
    return Finished(kind, steps, log_loss, final, until, norms, data_hash)


def _norms_of(run_dir: RunDir, kind: Kind) -> tuple[Array, Array] | None:
    """Return the steps and the log norms of the matrices; None where they were recorded seldom or from late on."""
    rows = rows_of(run_dir.metrics, "step", PARAMETER_NORMS)
    norms = [
        (float(row["step"]), norm) for row in rows if (norm := norm_of(row[PARAMETER_NORMS])) is not None and norm > 0
    ]
    if len(norms) < FEWEST_NORMS or norms[0][0] > LATEST_FIRST * kind.steps:
        return None
    return np.array([step for step, _ in norms]), np.log([norm for _, norm in norms])


def curve_of(run_dir: RunDir, config: RunConfig) -> tuple[Array, Array]:
    """Return the logged steps of a run and the log losses there, without those whose loss is no positive number.

    A run that went on from a checkpoint of another, as a branch from its trunk does, has that one's steps before.
    """
    losses = _losses(run_dir)
    source = config.checkpoint.source
    if source is not None and config.checkpoint.load == "always" and losses:
        first, trunk = min(losses), RunDir(Path(source).parent.parent)
        losses = {step: loss for step, loss in _losses(trunk).items() if step < first} | losses
    steps = np.array(sorted(losses), float)
    return steps, np.log([losses[int(step)] for step in steps])


def steps_before_skipped(run_dir: RunDir, config: RunConfig) -> float:
    """Return after how many steps a run first left data out: by its settings, or when it went back for spikes.

    Infinite for one that did not. Raises `UserError` where the record of its going back is damaged.
    """
    begins = [int(text.partition(":")[0]) for text in config.skip_steps]
    try:
        begins += [int(row["begin"]) for row in read_object(run_dir.rollbacks, "rollbacks")["rollbacks"]]
    except FileNotFoundError:
        pass  # it never went back
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run_dir.rollbacks} cannot be read: {error!r}") from None
    return min(begins, default=math.inf)


def _losses(run_dir: RunDir) -> dict[int, float]:
    rows = rows_of(run_dir.metrics, "kind", "step", "loss")
    return {
        int(row["step"]): float(row["loss"])
        for row in rows
        if row["kind"] == "train" and isinstance(row["loss"], int | float) and row["loss"] > 0
    }


def matching(runs: Sequence[Finished], wanted: Kind) -> list[Finished]:
    """Return the runs that differ from the wanted one in size, length and seed alone.

    Where there are none, the learning rate may differ too: then the best one of each size, length and seed counts, as
    in a ladder whose rates are tuned. Empty where nothing matches.
    """
    like = [run for run in runs if not unlikeness(run.kind.like, wanted.like) and _same_batch(run, wanted)]
    if like:
        return like
    best: dict[tuple[float, int], Finished] = {}
    for run in _like_but_rate(runs, wanted):
        key = (run.kind.N, run.kind.steps)
        if key not in best or run.final < best[key].final:
            best[key] = run
    return list(best.values())


def other_rate(runs: Sequence[Finished], wanted: Kind) -> str:
    """Say how the wanted run's learning rate differs from those of all runs that are like it otherwise.

    "" where one of them has it, or it lies between theirs, as in a ladder whose rates are tuned.
    """
    mine, others = wanted.like["optim"], [run.kind.like["optim"] for run in _like_but_rate(runs, wanted)]
    said = [(key, _not_among({other.get(key) for other in others}, mine.get(key))) for key in RATE]
    return "; ".join(f"optim.{key}: {apart}" for key, apart in said if apart) if others else ""


def _not_among(theirs: set[object], mine: object) -> str:
    numbers = [one for one in theirs if isinstance(one, int | float)]
    between = isinstance(mine, int | float) and bool(numbers) and min(numbers) <= mine <= max(numbers)
    if mine in theirs or between:
        return ""
    words = [str(one) for one in theirs if one not in numbers]
    ends = [f"{end:g}" for end in sorted({min(numbers), max(numbers)})] if numbers else []
    return f"{' or '.join([*words, ' to '.join(ends)] if ends else words)} there, {mine} here"


def _like_but_rate(runs: Sequence[Finished], wanted: Kind) -> list[Finished]:
    """Return the runs that differ from the wanted one in size, length, seed and learning rate alone."""
    return [
        run for run in runs
        if not unlikeness(run.kind.like_but_rate, wanted.like_but_rate) and _same_batch(run, wanted)
    ]  # fmt: skip


def why_not(runs: Sequence[Finished], wanted: Kind) -> str:
    """Say in what finished runs differ from the wanted one: the most frequent difference, and how many have it."""
    said = Counter(unlikeness(run.kind.like, wanted.like) for run in runs)
    said.pop("", None)
    return "; ".join(f"{count} differ ({text})" for text, count in said.most_common(2))


def _same_batch(run: Finished, wanted: Kind) -> bool:
    return run.kind.tokens_per_step == wanted.tokens_per_step
