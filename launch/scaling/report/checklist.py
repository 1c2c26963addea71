"""Sections about provenance: the forecast ledger, the reproducibility checklist, and how the report was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from launch.scaling.questions.forecast import read, score
from launch.scaling.report.model import Grid, Section, interval
from launch.scaling.table.counting import N_CONVENTIONS
from launch.scaling.table.table import Table
from launch.show.costs import costs_text
from launch.show.text import count, flops_text

UNKNOWN = "not recorded in the table"


@dataclass(frozen=True)
class Answers:
    """What only the fit can say of itself."""

    formula: str
    source: str
    parameters: str
    objective: str
    starts: str
    intervals: str
    held_out: str


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
             "seen" if f.seen else {None: "", True: "yes", False: "NO"}[None if s is None else s.inside], f.beyond]
        )  # fmt: skip
    header = ["run", "written", "forecast", "95 %", "measured", "error", "inside", "reach"]
    caption = (
        "Losses in nats per token. Reach: compute of the run over the largest that its fit had seen. Inside, seen: the "
        "fit had seen this run, which tests nothing."
    )
    return Section("Forecasts", ["Written down before the runs were made."], [], [Grid(header, rows, caption)])


def forecast_lines(path: Path, table: Table) -> list[str]:
    """Say for each forecast that has been tested what was said, when, and what came."""
    scores = [s for s in score(list(read(path)), table)[0] if not s.forecast.seen]
    return [
        f"Forecast on {s.forecast.time[:16].replace('T', ' ')} UTC, before the run, for "
        f"{s.forecast.beyond} the largest run that it knew: loss {s.forecast.loss:.3f}{ends}; "
        f"measured {s.measured:.3f}, off by {s.error:+.2%}{inside}."
        for s in scores
        for ends in [f" {interval(*s.forecast.interval, '.3f')}" if s.forecast.interval else ""]
        for inside in [{None: "", True: ", inside the interval", False: ", OUTSIDE the interval"}[s.inside]]
    ]


def checklist_section(table: Table, answers: Answers) -> Section:
    """Return the questions that a reader needs answered to repeat a scaling study, as far as the runs answer them.

    After the checklist of Li et al. 2025, "(Mis)Fitting: a survey of scaling laws" (arXiv 2502.18969), in our words
    and in its four parts.
    """
    parts = {
        "The law": [
            ["What is its form, and where from?", f"{answers.formula} ({answers.source})"],
            ["What does it predict?", "validation loss in nats per token"],
            ["Which parameters are fitted?", answers.parameters],
        ],
        "Training": [
            ["How many models, over which range?", f"{_runs(table)}; {_spans(table)}"],
            ["Which families of models?", _distinct(table, "group")],
            ["Width, depth and context?", _shapes(table)],
            ["How are parameters counted?", N_CONVENTIONS.get(table.n_convention, table.n_convention)],
            ["How is compute counted?", _compute(table)],
            ["What did it cost?", _cost(table)],
            ["Which data and tokenizer?", _data(table)],
            ["Is data repeated?", _repetition(table)],
            ["Learning rate, schedule, batch?", _hyperparameters(table)],
            ["How many seeds?", _seeds(table)],
            ["Which code?", _code(table)],
        ],
        "Data points": [
            ["Which evaluation set?", _distinct(table, "eval_set")],
            ["Points before the end of a run?", _branches(table)],
            ["Are losses smoothed?", _noise(table)],
            ["Which points were left out?", "; ".join(table.without) or "none"],
            ["Where are the raw data?", f"{table.source}, SHA-256 {table.sha256[:16] or 'none (in memory)'}"],
        ],
        "The fit": [
            ["Which objective and solver?", answers.objective],
            ["From which starts?", answers.starts],
            ["How certain are the parameters?", answers.intervals],
            ["How is it validated?", answers.held_out],
        ],
    }
    grids = [Grid([part, ""], rows, text=True) for part, rows in parts.items()]
    note = "What a reader needs to repeat this study, after the checklist of Li et al. 2025 (arXiv 2502.18969)."
    return Section("Reproducibility", [note], [], grids)


def provenance_section(table: Table) -> Section:
    """Say what was derived and noticed while the table was read."""
    lines = [f"Derived: {note}." for note in table.notes]
    lines += [f"Warning: {warning}" for warning in table.warnings]
    return Section("Warnings and notes", lines or ["None."])


def _runs(table: Table) -> str:
    trunks = set(table.labels["trunk"]) if "trunk" in table.labels else set()
    return f"{len(table)} runs" + (f" on {len(trunks)} trunks" if 1 < len(trunks) < len(table) else "")


def _spans(table: Table) -> str:
    return ", ".join(
        f"{name} {shown(float(values.min()))} to {shown(float(values.max()))}"
        for name, shown in (("N", count), ("D", count), ("C", flops_text))
        if (values := table.columns.get(name)) is not None
    )


def _compute(table: Table) -> str:
    if table.c_convention == "exact":
        return "forward and backward with attention and head, counted exactly; allocations use C = 6 N D"
    return "; ".join(table.notes) or ("as given" if table.has("C") else UNKNOWN)


def _cost(table: Table) -> str:
    said = costs_text(table.spent)
    return f"{said}; restarts and runs that ended badly are included" if said else UNKNOWN


def _distinct(table: Table, label: str) -> str:
    names = sorted({str(name) for name in table.labels.get(label, ())} - {"", "None"})
    if not names:
        return UNKNOWN
    return ", ".join(n[:48] for n in names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _shapes(table: Table) -> str:
    shapes, contexts = _distinct(table, "shape"), _distinct(table, "context")
    return UNKNOWN if shapes == UNKNOWN else f"width x layers {shapes}; context {contexts} tokens"


def _code(table: Table) -> str:
    revision = _distinct(table, "revision")
    return revision if revision == UNKNOWN else f"Escala, revision {revision}"


def _data(table: Table) -> str:
    known = {what: _distinct(table, label) for what, label in (("data", "data"), ("tokenizer", "tokenizer"))}
    said = [f"{what} {text}" for what, text in known.items() if text != UNKNOWN]
    return "; ".join(said) or UNKNOWN


def _repetition(table: Table) -> str:
    if not table.has("D", "U"):
        return UNKNOWN
    epochs = table.columns["D"] / table.columns["U"]
    return f"up to {epochs.max():.2f} epochs" if epochs.max() > 1.0001 else "no token is seen twice"


def _hyperparameters(table: Table) -> str:
    said = [_range(table, "lr", "learning rate {}", ".2g"), _distinct(table, "schedule")]
    said.append(_range(table, "batch", "{} tokens per step", ",.0f"))
    return "; ".join(s for s in said if s != UNKNOWN) or UNKNOWN


def _range(table: Table, column: str, text: str, style: str) -> str:
    values = table.columns.get(column)
    if values is None or not np.isfinite(values).any():
        return UNKNOWN
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return text.format(f"{low:{style}}" if low == high else f"{low:{style}} to {high:{style}}")


def _seeds(table: Table) -> str:
    known = _distinct(table, "seed")
    if known == UNKNOWN:
        return UNKNOWN
    number = len(set(table.labels["seed"]))
    return f"one ({known}): the spread over seeds is not measured" if number == 1 else f"{number} ({known})"


def _branches(table: Table) -> str:
    if "trunk" not in table.labels:
        return UNKNOWN
    shared = len(table) - len(set(table.labels["trunk"]))
    return f"no; {shared} runs are cooldowns that share their beginning with another" if shared else "no"


def _noise(table: Table) -> str:
    sem = table.columns.get("sem")
    if sem is None or not np.isfinite(sem).any():
        return UNKNOWN
    return f"no; standard error over evaluated sequences up to {np.nanmax(sem):.4f} nats"
