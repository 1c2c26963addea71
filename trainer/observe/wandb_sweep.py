"""Sends a sweep to W&B as a run of its own: `python -m trainer.observe.wandb_sweep < payload.json`.

The payload is made by `launch/sweep/ledger/mirrored.py`. What became of it is printed as one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from trainer.contract.exit_codes import EXIT_DONE, EXIT_FAILED
from trainer.contract.hiding import without_secrets
from trainer.contract.plain_json import to_json
from trainer.observe.wandb_connection import client_settings, reason_of

X, Y = "params_total", "perplexity"


def send(payload: dict[str, Any], directory: Path) -> None:
    """Send table, scatter, line and report. Raises what the client raises."""
    import wandb

    try:
        run = wandb.init(
            settings=client_settings(None, final=True), mode="online", dir=str(directory), resume="allow",
            id=payload["id"], project=payload["project"], group=without_secrets(payload["group"]), job_type="sweep",
            name=without_secrets(payload["name"]), tags=[without_secrets(tag) for tag in payload["tags"]],
        )  # fmt: skip
    except BaseException:
        wandb.teardown()
        raise
    rows = [[_shown(value) for value in row] for row in payload["rows"]]
    table = wandb.Table(columns=payload["columns"], data=rows, allow_mixed_types=True)
    at = [payload["columns"].index(name) for name in ("name", X, Y)]
    points = [[row[k] for k in at] for row in rows if row[at[1]] is not None and row[at[2]] is not None]
    measured = wandb.Table(columns=["name", X, Y], data=points)
    logged = {"cells": table, "perplexity": wandb.plot.scatter(measured, X, Y, title="perplexity of the cells")}
    if (curve := payload["curve"]) is not None:
        line = wandb.Table(columns=[X, Y], data=list(map(list, zip(curve["params"], curve["perplexity"], strict=True))))
        logged["law"] = wandb.plot.line(line, X, Y, title=f"law {curve['law']}")
    run.log(logged)
    run.summary.update(
        {"cells": len(rows), "done": sum(row[payload["columns"].index("status")] == "done" for row in rows)}
    )
    if payload["report"]:
        artifact = wandb.Artifact(f"report-{payload['id']}", type="report")
        artifact.add_file(payload["report"])
        run.log_artifact(artifact)
    run.finish(exit_code=0)


def _shown(value: Any) -> Any:
    return without_secrets(value) if isinstance(value, str) else value


def main() -> int:
    """Send the sweep on standard input and return the exit code."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    payload, error = json.load(sys.stdin), None
    try:
        with tempfile.TemporaryDirectory() as directory:
            send(payload, Path(directory))
    except Exception as raised:  # the client raises many kinds, and whoever asked wants the reason
        error = reason_of(raised)
    print(to_json({"error": error}), flush=True)
    return EXIT_DONE if error is None else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
