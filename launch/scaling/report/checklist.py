"""Sections about provenance: the forecast ledger, the reproducibility checklist, and how the report was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from launch.scaling.forecast import read, score
from launch.scaling.report.model import Grid, Section, count, interval
from launch.scaling.table import Table

UNKNOWN = "not recorded in the table"


def forecasts_section(path: Path, table: Table) -> Section:
    """Return every forecast with its score where the run is in the table."""
    forecasts = list(read(path))
    scores, _ = score(forecasts, table)
    by_id = {s.forecast.id: s for s in scores}
    rows = []
    for f in forecasts:
        s = by_id.get(f.id)
        rows.append(
            [f.name or f.id, f.time[:10], f"{f.loss:.4f}", interval(*f.interval, ".4f") if f.interval else "-",
             "waiting" if s is None else f"{s.measured:.4f}", "" if s is None else f"{s.error:+.2%}",
             {None: "", True: "yes", False: "NO"}[None if s is None else s.inside], f"{f.times_largest:.3g}x"]
        )  # fmt: skip
    header = ["run", "written", "forecast", "95 %", "measured", "error", "inside", "beyond the fit"]
    return Section("Forecasts", ["Written down before the runs were made."], [], [Grid(header, rows)])


def forecast_lines(path: Path, table: Table) -> list[str]:
    """Say for each forecast that has been tested what was said, when, and what came."""
    return [
        f"Forecast on {s.forecast.time[:16].replace('T', ' ')} UTC, before the run, for "
        f"{s.forecast.times_largest:.3g} times the largest run that it knew: loss {s.forecast.loss:.3f}{ends}; "
        f"measured {s.measured:.3f}, off by {s.error:+.2%}."
        for s in score(list(read(path)), table)[0]
        for ends in [f" {interval(*s.forecast.interval, '.3f')}" if s.forecast.interval else ""]
    ]


def checklist_section(table: Table, law: str, objective: str, held_out: str) -> Section:
    """Return the questions that a reader needs answered to repeat a scaling study, as far as the runs answer them.

    After the checklist of Li et al. 2025, "(Mis)Fitting: a survey of scaling laws" (arXiv 2502.18969), in our words.
    """
    c = table.columns
    spans = [
        f"{n} {count(c[n].min()) if n != 'C' else f'{c[n].min():.2g}'} to "
        f"{count(c[n].max()) if n != 'C' else f'{c[n].max():.2g}'}"
        for n in ("N", "D", "C")
        if n in c
    ]
    rows = [
        ["What is the law, and what does it predict?", f"{law}; validation loss in nats per token"],
        ["How many runs, over which range?", f"{len(table)} runs; {', '.join(spans)}"],
        ["How are parameters counted?", table.n_convention],
        ["How is compute counted?", _compute(table)],
        ["Which families of models?", _distinct(table, "group")],
        ["Which tokenizer?", _distinct(table, "tokenizer")],
        ["Which evaluation set?", _distinct(table, "eval_set")],
        ["How many seeds?", _distinct(table, "seed")],
        ["Is data repeated?", _repetition(table)],
        ["How was the learning rate set?", _learning_rate(table)],
        ["Which points were left out?", "; ".join(w for w in table.warnings if "left out" in w) or "none"],
        ["Which objective and solver?", objective],
        ["From which starts?", "a grid of exponents by variable projection, best and spread"],
        ["How is the fit validated?", held_out],
        ["Where are the raw data?", f"{table.source}, SHA-256 {table.sha256[:16] or 'none (in memory)'}"],
    ]
    return Section("Reproducibility", [], [], [Grid(["question", "answer"], rows, text=True)])


def provenance_section(table: Table) -> Section:
    """Say what was derived and noticed while the table was read."""
    lines = [f"Derived: {note}." for note in table.notes]
    lines += [f"Warning: {warning}" for warning in table.warnings]
    return Section("Warnings and notes", lines or ["None."])


def _compute(table: Table) -> str:
    if table.c_convention == "exact":
        return "forward and backward with attention and head, counted exactly"
    return "; ".join(table.notes) or "as given"


def _distinct(table: Table, label: str) -> str:
    if label not in table.labels:
        return UNKNOWN
    names = sorted(set(map(str, table.labels[label])))
    return ", ".join(n[:16] for n in names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _repetition(table: Table) -> str:
    if not table.has("D", "U"):
        return UNKNOWN
    epochs = table.columns["D"] / table.columns["U"]
    return f"up to {epochs.max():.2f} epochs" if epochs.max() > 1.0001 else "no token is seen twice"


def _learning_rate(table: Table) -> str:
    if "lr" not in table.columns or not np.isfinite(table.columns["lr"]).any():
        return UNKNOWN
    rates = table.columns["lr"]
    low, high = float(np.nanmin(rates)), float(np.nanmax(rates))
    return f"{low:.2g} for every run" if low == high else f"by size, from {low:.2g} to {high:.2g}"
