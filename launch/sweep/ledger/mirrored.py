"""A sweep as W&B shows it: its cells as a table, their perplexity against their parameters, the law as a line."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from launch.scaling.other.ladder import fit_ladder
from launch.scaling.table.load import from_ledger
from launch.sweep.ledger import ledger
from trainer.config.yaml_text import parse_yaml
from trainer.contract.errors import UserError
from trainer.contract.plain_json import DamagedFileError, read_object, to_json
from trainer.contract.run_dir import write_atomically

COLUMNS = (
    "name", "status", "params_total", "tokens", "flops_exact", "loss", "perplexity", "bits_per_byte", "lr", "layout",
    "seconds",
)  # fmt: skip
POINTS = 64  # of the line
ID_FILE = "wandb.json"


def mirrored(directory: Path, cell: Path) -> dict[str, object] | None:
    """Return what `trainer/observe/wandb_sweep.py` sends of a sweep, as plain JSON; None where its ledger has no cell.

    `cell` is the directory of one of its runs, whose project in W&B is the sweep's.
    """
    path = directory / "ledger.jsonl"
    rows = list(ledger.latest(path).values())
    if not rows:
        return None
    tracking = parse_yaml((cell / "config.yaml").read_text(encoding="utf-8")).get("tracking") or {}
    html = directory / "report" / "report.html"
    return {
        "id": _id(directory),
        "name": directory.name,
        "project": tracking.get("project") or "escala",
        "group": tracking.get("group") or directory.name,
        "tags": list(tracking.get("tags") or ()),
        "columns": list(COLUMNS),
        "rows": [[row.get(column) for column in COLUMNS] for row in rows],
        "curve": _curve(path),
        "report": str(html.absolute()) if html.is_file() else None,
    }


def _id(directory: Path) -> str:
    """Return the sweep's id in W&B, which stays with its directory."""
    path = directory / ID_FILE
    try:
        return str(read_object(path, "wandb_id")["wandb_id"])
    except (FileNotFoundError, DamagedFileError):
        new = os.urandom(6).hex()
        write_atomically(path, to_json({"wandb_id": new}, indent=2) + "\n")
        return new


def _curve(path: Path) -> dict[str, object] | None:
    """Return the ladder's law as points of N and perplexity; None where the cells are no ladder of sizes."""
    rows = [row for row in ledger.read(path) if row.get("loss") is not None]
    try:
        table = from_ledger(rows, str(path), hashlib.sha256(path.read_bytes()).hexdigest(), "total")
        law = fit_ladder(table, "N", replicates=20).preferred
    except UserError:
        return None
    sizes = np.geomspace(table.N.min(), table.N.max(), POINTS)
    losses = law.fitted.predict({"N": sizes})
    return {"law": law.name, "params": sizes.tolist(), "perplexity": np.exp(losses).tolist()}
