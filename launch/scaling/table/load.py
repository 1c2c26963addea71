"""Read a table of runs: Escala's own ledger, or anybody's CSV, JSON lines or parquet file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from launch.scaling.table.build import build_table, keep_where
from launch.scaling.table.counting import DEFAULT_N, N_CONVENTIONS
from launch.scaling.table.endings import chance_in_rows, final_rows, without_bad_ends
from launch.scaling.table.mapping import TARGETS, Source, resolve
from launch.scaling.table.reading import TUNING, Row, read_rows
from launch.scaling.table.rows import RowsAre, last_checkpoints, rows_with
from launch.scaling.table.table import Table
from launch.scaling.table.wandb_export import refuse_curves
from launch.scaling.tune.standing import tuning_of
from launch.show.costs import costs_text, total
from trainer.contract.errors import UserError, did_you_mean


def load(
    path: str | Path,
    mapping: Mapping[str, str] | None = None,
    n_convention: str = DEFAULT_N,
    *,
    c_convention: str = "exact",
    where: Mapping[str, str] | None = None,
    drop_bad: bool = False,
    rows_are: RowsAre = "auto",
    trials_of: str = "",
) -> Table:
    """Read a table of runs.

    A ledger of Escala is recognised by its columns; `n_convention` and `c_convention` apply to it alone. `where` keeps
    rows whose column equals a value. Rows with a missing, non-finite or non-positive number are an error that lists
    them, or with `drop_bad` a warning. Two of N, D, C give the third by C = 6 N D. One row a run is kept unless
    `rows_are` says otherwise (`launch/scaling/table/rows.py`), or `trials_of` names the setting, lr or batch, whose
    trials are wanted. Raises `UserError`.
    """
    raw = read_rows(Path(path))
    if {"params_body", "flops_exact", "cell"} <= raw.rows[0].keys() and not mapping:
        table = from_ledger(
            raw.rows, str(path), raw.sha256, n_convention, c_convention, where=where, drop_bad=drop_bad,
            every_row=rows_are == "all", trials=bool(trials_of),
        )  # fmt: skip
    else:
        refuse_curves(raw, str(path))
        numbered = keep_where(list(enumerate(raw.rows, start=1)), where, str(path))
        sources = resolve(mapping or {}, raw.columns, str(path))
        numbered, bad_ends = without_bad_ends(numbered, sources, where, str(path))
        numbered, early = last_checkpoints(numbered, sources, str(path), rows_are)
        numbered, untried = rows_with(trials_of, numbered, sources)
        table = build_table(
            numbered, sources, str(path), raw.sha256, drop_bad=drop_bad, every_row=rows_are == "all",
            trials=bool(trials_of),
        )  # fmt: skip
        table = replace(table, warnings=(*bad_ends, *early, *untried, *table.warnings))
    return replace(table, warnings=(*raw.warnings, *table.warnings), left_out=_filtered(raw.rows, where, str(path)))


def _filtered(rows: Sequence[Row], where: Mapping[str, str] | None, source: str) -> tuple[str, ...]:
    """Say how many rows the conditions kept."""
    if not where:
        return ()
    kept = len(keep_where(list(enumerate(rows, start=1)), where, source))
    conditions = " ".join(f"--where {column}={value}" for column, value in where.items())
    return (f"all but {kept} of {len(rows)} rows, by {conditions}",)


def from_ledger(
    rows: Sequence[Row],
    source: str = "ledger",
    sha256: str = "",
    n_convention: str = DEFAULT_N,
    c_convention: str = "exact",
    *,
    where: Mapping[str, str] | None = None,
    drop_bad: bool = False,
    every_row: bool = False,
    trials: bool = False,
) -> Table:
    """Build a table from ledger rows (`launch/sweep/ledger/ledger.py`). Runs that ended badly are left out by name."""
    if n_convention not in N_CONVENTIONS:
        raise UserError(f"unknown convention of N {n_convention!r}{did_you_mean(n_convention, N_CONVENTIONS)}")
    numbered, tuning = _of_purpose(list(enumerate(rows, start=1)), source, trials=trials)
    numbered, warnings = final_rows(numbered, where, source)
    warnings += tuning
    numbered, more = _final_points(keep_where(numbered, where, source))
    warnings += more
    flat = [(number, _flat(row, n_convention, c_convention)) for number, row in numbered]
    table = build_table(
        flat,
        {name: Source(name) for name in flat[0][1] if name in TARGETS},
        source,
        sha256,
        drop_bad=drop_bad,
        by_position=[row.get("loss_by_position") or [] for _, row in numbered],
        own=True,
        every_row=every_row,
        trials=trials,
    )
    kept = {int(r) for r in table.row}
    counted = [row for number, row in numbered if number in kept]
    warnings += chance_in_rows([row for _, row in numbered])  # a trial that another one beat is named too
    recipe = [_recipe(r) for r in counted]
    words, falls = tuning_of(counted, rows)
    return replace(
        table,
        columns={**table.columns, **falls},
        labels={**words, **table.labels, **{name: np.array([r[name] for r in recipe]) for name in recipe[0]}},
        conventions={c: np.array([_params(r, c) for r in counted]) for c in N_CONVENTIONS},
        flops={
            "exact": np.array([float(r["flops_exact"]) for r in counted]),
            "6nd": np.array([float(r[f"flops_6nd_{n_convention}"]) for r in counted]),
        },
        n_convention=n_convention,
        c_convention=c_convention,
        spent=total({row.get("cell"): row for row in rows}.values()),
        warnings=(*warnings, *table.warnings),
    )


def _of_purpose(
    numbered: list[tuple[int, Row]], source: str, *, trials: bool
) -> tuple[list[tuple[int, Row]], list[str]]:
    """Leave out the runs of a tuning, unless trials are wanted: their settings are wrong on purpose.

    Trials of weight decay always: a law of rate and batch would take what it did for noise.
    """
    kept = [(n, r) for n, r in numbered if r.get("purpose") != TUNING or (trials and r.get("knob") != "weight_decay")]
    if not kept:
        raise UserError(f"{source} has runs of a tuning alone: run the sweep itself, with the recipe that tuning wrote")
    left = len({row["cell"] for _, row in numbered}) - len({row["cell"] for _, row in kept})
    return kept, [f"left out: {left} runs of a tuning (escala fit --law lr fits them)"] if left else []


def _params(row: Row, convention: str) -> float:
    if convention == "head":
        return float(row["params_body"] + row["vocab_size"] * row["d_model"])
    return float(row[f"params_{convention}"])


def _flat(row: Row, n_convention: str, c_convention: str) -> Row:
    return {
        "N": _params(row, n_convention),
        "D": row["tokens"],
        "C": row["flops_exact"] if c_convention == "exact" else row[f"flops_6nd_{n_convention}"],
        "loss": row["loss"],
        "U": row["unique_tokens"],
        "sem": row.get("loss_sem"),
        "lr": row["lr"],
        "batch": row["tokens_per_step"],
        "name": row["name"],
        "group": row.get("kind") or row["family"],
        "trunk": row.get("trunk") or row["cell"],
        "seed": row["seed"],
        "tokenizer": row["tokenizer_hash"],
        "eval_set": row["eval_set"],
        "perplexity": row.get("perplexity"),
    }


def _recipe(row: Row) -> dict[str, str]:
    """Return how a run was made, as far as a reader of a report asks for it."""
    return {
        "shape": f"{row['d_model']}x{row['n_layers']}",
        "context": str(row["context_length"]),
        "schedule": str(row["schedule"]),
        "data": str(row["data_hash"])[:16],
        "revision": str(row["git_revision"] or "")[:12],
        "spent": costs_text(row),
    }


def _final_points(done: list[tuple[int, Row]]) -> tuple[list[tuple[int, Row]], list[str]]:
    """Keep the last point of each cell on the first evaluation set."""
    warnings = []
    sets = list(dict.fromkeys(row["eval_set"] for _, row in done))
    if len(sets) > 1:
        warnings.append(f"losses are those on {sets[0]!r}; also there: {', '.join(sets[1:])} (--where eval_set=...)")
    last: dict[str, tuple[int, Row]] = {}
    for number, row in done:
        key = row["cell"]
        if row["eval_set"] == sets[0] and (key not in last or row["step"] >= last[key][1]["step"]):
            last[key] = (number, row)
    return sorted(last.values(), key=lambda pair: pair[0]), warnings
