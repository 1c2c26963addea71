"""The table that laws are fitted to: arrays of N, D, C and loss, with labels and where each row came from.

It is read from Escala's own ledger or from anybody's CSV, JSON lines or parquet file. N is the number of
parameters under a named convention, D training tokens, C training FLOPs, loss in nats per token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.scaling.checks import check_labels, check_values, find_repeats, rows_text
from launch.scaling.mapping import LABELS, NUMERIC, PERPLEXITIES, TARGETS, Source, plain_name, resolve
from launch.scaling.objective import Array
from launch.scaling.reading import Row, read_rows
from launch.scaling.units import check_derived, check_flops, check_loss, check_sizes
from trainer.errors import UserError, did_you_mean

N_CONVENTIONS: dict[str, str] = {
    "head": "body + output head (Porian et al. 2024)",
    "body": "without embeddings and head (Kaplan et al. 2020)",
    "total": "every distinct parameter (Hoffmann et al. 2022)",
}


@dataclass(frozen=True)
class Table:
    """Rows of runs. Every array has one entry for each row."""

    source: str
    sha256: str
    columns: Mapping[str, Array]  # N, D, C, loss, and where known U, sem, lr, batch
    row: NDArray[np.int64]  # 1-based number of the row in the file, header not counted
    labels: Mapping[str, NDArray[np.str_]]
    by_position: Sequence[Sequence[float]] = ()
    conventions: Mapping[str, Array] = field(default_factory=dict)  # N under each convention, ledgers only
    flops: Mapping[str, Array] = field(default_factory=dict)  # C under each convention, ledgers only
    n_convention: str = "as given"
    c_convention: str = "as given"
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.row)

    @property
    def N(self) -> Array:  # noqa: N802
        return self.columns["N"]

    @property
    def D(self) -> Array:  # noqa: N802
        return self.columns["D"]

    @property
    def C(self) -> Array:  # noqa: N802
        return self.columns["C"]

    @property
    def loss(self) -> Array:
        return self.columns["loss"]

    def has(self, *names: str) -> bool:
        return all(n in self.columns for n in names)

    def select(self, keep: NDArray[Any]) -> Table:
        """Return the rows for which `keep` (mask or indices) holds."""
        index = np.arange(len(self))[keep]
        return replace(
            self,
            columns={k: v[index] for k, v in self.columns.items()},
            row=self.row[index],
            labels={k: v[index] for k, v in self.labels.items()},
            by_position=[self.by_position[i] for i in index] if self.by_position else (),
            conventions={k: v[index] for k, v in self.conventions.items()},
            flops={k: v[index] for k, v in self.flops.items()},
        )

    def counted(self, n_convention: str) -> Table:
        """Return the same runs with N under another convention (ledgers only)."""
        if n_convention not in self.conventions:
            raise UserError(
                f"N is known under {sorted(self.conventions) or ['one convention only']}, not {n_convention!r}"
            )
        columns = {**self.columns, "N": self.conventions[n_convention]}
        return replace(self, columns=columns, n_convention=n_convention)

    def require(self, names: Sequence[str], law: str) -> None:
        """Raise `UserError` unless every column is there."""
        missing = [n for n in names if n not in self.columns]
        if missing:
            raise UserError(
                f"law {law!r} needs {', '.join(names)}; {self.source} gives {', '.join(self.columns)}: "
                f"name the columns, for instance --map {missing[0]}=COLUMN"
            )


def load(
    path: str | Path,
    mapping: Mapping[str, str] | None = None,
    n_convention: str = "head",
    *,
    c_convention: str = "exact",
    where: Mapping[str, str] | None = None,
    drop_bad: bool = False,
) -> Table:
    """Read a table of runs.

    A ledger of Escala is recognised by its columns; `n_convention` and `c_convention` apply to it alone. `where` keeps
    rows whose column equals a value. Rows with a missing, non-finite or non-positive number are an error that lists
    them, or with `drop_bad` a warning. Two of N, D, C give the third by C = 6 N D. Raises `UserError`.
    """
    raw = read_rows(Path(path))
    if {"params_body", "flops_exact", "cell"} <= raw.rows[0].keys() and not mapping:
        table = from_ledger(raw.rows, str(path), raw.sha256, n_convention, c_convention, where=where, drop_bad=drop_bad)
    else:
        numbered = _filter(list(enumerate(raw.rows, start=1)), where, str(path))
        sources = resolve(mapping or {}, raw.columns, str(path))
        table = _build(numbered, sources, str(path), raw.sha256, drop_bad=drop_bad)
    return replace(table, warnings=(*raw.warnings, *table.warnings))


def from_ledger(
    rows: Sequence[Row],
    source: str = "ledger",
    sha256: str = "",
    n_convention: str = "head",
    c_convention: str = "exact",
    *,
    where: Mapping[str, str] | None = None,
    drop_bad: bool = False,
) -> Table:
    """Build a table from ledger rows (see `launch/sweep/ledger.py`). Diverged runs are left out and named."""
    if n_convention not in N_CONVENTIONS:
        raise UserError(f"unknown convention of N {n_convention!r}{did_you_mean(n_convention, N_CONVENTIONS)}")
    numbered = _filter(list(enumerate(rows, start=1)), where, source)
    numbered, warnings = _final_points(numbered)
    flat = [(number, _flat(row, n_convention, c_convention)) for number, row in numbered]
    table = _build(
        flat,
        {name: Source(name) for name in flat[0][1] if name in TARGETS},
        source,
        sha256,
        drop_bad=drop_bad,
        by_position=[row.get("loss_by_position") or [] for _, row in numbered],
        own=True,
    )
    kept = {int(r) for r in table.row}
    counted = [row for number, row in numbered if number in kept]
    recipe = [_recipe(r) for r in counted]
    return replace(
        table,
        labels={**table.labels, **{name: np.array([r[name] for r in recipe]) for name in recipe[0]}},
        conventions={c: np.array([_params(r, c) for r in counted]) for c in N_CONVENTIONS},
        flops={
            "exact": np.array([float(r["flops_exact"]) for r in counted]),
            "6nd": np.array([float(r[f"flops_6nd_{n_convention}"]) for r in counted]),
        },
        n_convention=n_convention,
        c_convention=c_convention,
        warnings=(*warnings, *table.warnings),
    )


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
        "group": row["family"],
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
    }


def _final_points(numbered: list[tuple[int, Row]]) -> tuple[list[tuple[int, Row]], list[str]]:
    """Keep the last point of each cell on the first evaluation set; leave out runs that diverged."""
    warnings = []
    diverged = [row["name"] for _, row in numbered if row.get("status", "done") != "done"]
    if diverged:
        warnings.append(f"diverged runs are left out: {', '.join(dict.fromkeys(diverged))}")
    done = [(i, row) for i, row in numbered if row.get("status", "done") == "done"]
    if not done:
        raise UserError("the ledger has no finished run to fit" + (f"; {warnings[0]}" if warnings else ""))
    sets = list(dict.fromkeys(row["eval_set"] for _, row in done))
    if len(sets) > 1:
        warnings.append(f"losses are those on {sets[0]!r}; also there: {', '.join(sets[1:])} (--where eval_set=...)")
    last: dict[str, tuple[int, Row]] = {}
    for number, row in done:
        key = row["cell"]
        if row["eval_set"] == sets[0] and (key not in last or row["step"] >= last[key][1]["step"]):
            last[key] = (number, row)
    return sorted(last.values(), key=lambda pair: pair[0]), warnings


def _filter(numbered: list[tuple[int, Row]], where: Mapping[str, str] | None, source: str) -> list[tuple[int, Row]]:
    for column, value in (where or {}).items():
        columns = dict.fromkeys(name for _, row in numbered for name in row)
        if column not in columns:
            raise UserError(f"{source} has no column {column!r}{did_you_mean(column, columns)}")
        seen = list(dict.fromkeys(str(row.get(column)) for _, row in numbered))
        numbered = [(i, row) for i, row in numbered if str(row.get(column)) == value]
        if not numbered:
            more = f", ... ({len(seen)} in all)" if len(seen) > 12 else ""
            raise UserError(f"no row of {source} has {column} = {value!r}; seen: {', '.join(sorted(seen[:12]))}{more}")
    return numbered


def _build(
    numbered: list[tuple[int, Row]],
    sources: Mapping[str, Source],
    source: str,
    digest: str,
    *,
    drop_bad: bool,
    by_position: Sequence[Sequence[float]] = (),
    own: bool = False,
) -> Table:
    rows = [row for _, row in numbered]
    cells = {t: [r.get(s.column) for r in rows] for t, s in sources.items()}
    columns = {
        t: np.array([sources[t].number(cell) for cell in found])
        for t, found in cells.items()
        if t in NUMERIC and any(cell not in (None, "") for cell in found)
    }
    if "loss" not in columns:
        raise UserError(_no_loss(dict.fromkeys(name for row in rows for name in row), source))
    if not {"N", "D", "C"} & columns.keys():
        names = ", ".join(dict.fromkeys(str(name) for row in rows for name in row))
        raise UserError(f"{source} has no column of N, D or C: its columns are {names} (--map N=COLUMN)")
    labels = {t: np.array(["" if cell is None else str(cell) for cell in cells[t]]) for t in cells if t in LABELS}
    number = np.array([i for i, _ in numbered])
    filled = [] if own else _fill_flops(columns, cells, number)
    good, warnings = check_values(columns, cells, number, drop_bad=drop_bad)
    table = Table(source, digest, columns, number, labels, by_position).select(good)
    if not own:  # our own counts are numbers of parameters and tokens, however small
        check_sizes(table.columns, table.row, source)
    columns, notes = _derive(dict(table.columns))
    if not own:
        warnings += check_derived(columns, notes, source)
    if {"N", "D", "C"} <= table.columns.keys():
        warnings += check_flops(columns, table.row)
    warnings += check_loss(columns, sources["loss"], _perplexity(rows)[good], table.row)
    warnings += check_labels(table.labels, {t: s.column for t, s in sources.items()}, source)
    warnings += find_repeats(columns, table.labels, table.row)
    return replace(table, columns=columns, notes=(*notes, *filled), warnings=tuple(warnings))


def _fill_flops(columns: Mapping[str, Array], cells: Mapping[str, Sequence[Any]], row: NDArray[np.int64]) -> list[str]:
    """Fill in C by C = 6 N D where a table that gives N and D left it empty."""
    if not {"N", "D", "C"} <= columns.keys():
        return []
    empty = np.array([cell in (None, "") for cell in cells["C"]])
    columns["C"][empty] = 6 * columns["N"][empty] * columns["D"][empty]
    return [f"C = 6 N D in {rows_text(row[empty])}"] if empty.any() else []


def _no_loss(columns: Iterable[str], source: str) -> str:
    text = f"{source} has no loss column; its columns, by the header, are {', '.join(map(str, columns))}"
    perplexity = next((c for c in columns if plain_name(str(c)) in PERPLEXITIES), None)
    return f"{text} (--map loss={'COLUMN' if perplexity is None else f'ln({perplexity})'})"


def _perplexity(rows: Sequence[Row]) -> Array:
    """Return the table's own perplexities, NaN where it has none."""
    column = next((name for name in rows[0] if plain_name(name) in PERPLEXITIES), "")
    return np.array([Source(column).number(row.get(column)) for row in rows])


def _derive(columns: dict[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """Fill in the third of N, D, C by C = 6 N D (Kaplan et al. 2020, section 2.1)."""
    if {"N", "C"} <= columns.keys() and "D" not in columns:
        columns["D"] = columns["C"] / (6 * columns["N"])
        return columns, ["D = C / (6 N)"]
    if {"N", "D"} <= columns.keys() and "C" not in columns:
        columns["C"] = 6 * columns["N"] * columns["D"]
        return columns, ["C = 6 N D"]
    if {"D", "C"} <= columns.keys() and "N" not in columns:
        columns["N"] = columns["C"] / (6 * columns["D"])
        return columns, ["N = C / (6 D)"]
    return columns, []
