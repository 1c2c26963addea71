"""`escala sweep critical-batch`: up to which batch more tokens a step save steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from launch.commands.options import Positive, json_option
from launch.show.text import count
from trainer.contract.errors import UserError
from trainer.contract.plain_json import to_json

if TYPE_CHECKING:
    from launch.scaling.other.critical_batch import CriticalBatch, Curve

NEEDED = ("name", "batch", "step", "loss")


@click.command()
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--loss", type=Positive(), help="To which loss steps are counted; default: the lowest that all reach.")
@json_option
def critical_batch(table: Path, loss: float | None, as_json: bool) -> None:
    """Fit the critical batch to runs of three or more batch sizes.

    TABLE is the ledger of a sweep, whose run directories have the evaluations on the way, or a table with the columns
    name, batch (tokens a step), step and loss, and seed where there are several. Of runs of one batch and seed the
    fastest counts, so that the learning rate may be tried too.

    \b
    Examples:
      escala sweep run configs/sweep/critical-batch.yaml
      escala sweep critical-batch runs/critical-batch/ledger.jsonl
      escala sweep critical-batch curves.csv --loss 3.2 --json
    """
    from launch.scaling.other.critical_batch import fit_critical_batch

    found = fit_critical_batch(_curves(table), loss)
    if as_json:
        low, high = found.interval
        bounded = {"interval": [low or None, high if np.isfinite(high) else None]}
        click.echo(to_json({**asdict(found), **bounded}, indent=2))
        return
    _show(found)


def _show(found: CriticalBatch) -> None:
    low, high = found.interval
    bounds = f"{count(low) if low else 'no lower bound'} to {count(high) if np.isfinite(high) else 'no upper bound'}"
    click.echo(f"to loss {found.loss:.4f}: critical batch {count(found.critical)} tokens (90 %: {bounds})")
    click.echo(f"fewest steps {found.fewest_steps:,.0f}, fewest tokens {count(found.fewest_tokens)}")
    for batch, steps in sorted(zip(found.batches, found.steps, strict=True)):
        law = found.fewest_steps * (1 + found.critical / batch)
        click.echo(f"  batch {count(batch):>7}  steps {steps:9,.0f}  law {law:9,.0f}  tokens {count(batch * steps)}")
    if not low or not np.isfinite(high):
        side = "smaller" if not low else "larger"
        click.echo(f"the batches do not bound it: add one that is {side} by a factor of 4, or seeds")


def _curves(table: Path) -> list[Curve]:
    """Return the curves of a ledger or table. Raises UserError where it has none."""
    from launch.scaling.table.reading import read_rows, without_tuning

    raw = read_rows(table)
    if {"run_dir", "tokens_per_step"} <= raw.rows[0].keys():
        return _of_ledger(without_tuning(raw.rows), table)
    missing = [name for name in NEEDED if name not in raw.rows[0]]
    if missing:
        raise UserError(f"{table} has no column {', '.join(missing)}: a table of curves has {', '.join(NEEDED)}")
    points: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for number, row in enumerate(raw.rows, start=1):
        try:
            point = float(row["batch"]), float(row["step"]), float(row["loss"])
        except (TypeError, ValueError):
            raise UserError(f"{table}: row {number} has no number for batch, step or loss: mend or remove it") from None
        points.setdefault((str(row["name"]), str(row.get("seed", ""))), []).append(point)
    return [_curve(name, seed, found) for (name, seed), found in points.items()]


def _of_ledger(rows: Iterable[dict[str, Any]], table: Path) -> list[Curve]:
    from trainer.contract.plain_json import rows_of
    from trainer.contract.run_dir import RunDir

    done = {row["cell"]: row for row in rows if row.get("status", "done") == "done"}
    curves, short = [], []
    for row in done.values():
        metrics = rows_of(RunDir(Path(row["run_dir"])).metrics, "kind", "step", "loss")
        seen = [r for r in metrics if r["kind"] == "evaluation" and r["loss"] is not None]
        points = [(float(row["tokens_per_step"]), float(r["step"]), float(r["loss"])) for r in seen]
        if len(points) < 2:
            short.append(row["name"])
        else:
            curves.append(_curve(row["name"], str(row["seed"]), points))
    if not curves:
        named = f", such as {short[0]}" if short else ""
        raise UserError(f"{table}: no run was evaluated on the way{named}: set evaluation.every, such as 2%, and train")
    return curves


def _curve(name: str, seed: str, points: list[tuple[float, float, float]]) -> Curve:
    from launch.scaling.other.critical_batch import Curve

    batches = {batch for batch, _, _ in points}
    if len(batches) > 1:
        raise UserError(f"run {name!r} has {len(batches)} batch sizes: give the runs names of their own")
    ordered = np.array(sorted((step, loss) for _, step, loss in points))
    return Curve(name, seed, batches.pop(), ordered[:, 0], ordered[:, 1])
