"""W&B as a mirror of the local record: it keeps its run id over restarts and never makes training wait or fail.

All calls to wandb are made by one background thread that takes rows from a queue. Training puts rows there and
goes on. With the server away, rows wait in wandb's own offline files and can be sent later with `wandb sync`.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from pathlib import Path
from typing import Any

from trainer.observe.metrics import AXES, METRICS

INIT_TIMEOUT, FINISH_TIMEOUT = 20.0, 30.0
MODES = {"online": "online", "offline": "offline", "disabled": "disabled"}


def resolve_mode(choice: str) -> str:
    """Return wandb's mode. `auto` is $WANDB_MODE where that is set, online with credentials, and offline without."""
    if choice != "auto":
        return MODES[choice]
    if os.environ.get("WANDB_MODE") in MODES:
        return os.environ["WANDB_MODE"]
    return "online" if os.environ.get("WANDB_API_KEY") or _has_netrc_entry() else "offline"


def _has_netrc_entry() -> bool:
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0].split(":")[0]
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return path.exists() and f"machine {host}" in path.read_text(errors="replace")


class WandbMirror:
    """Sends rows to one W&B run. Trouble is told once on standard error and then the mirror stays silent."""

    def __init__(self, *, run_id: str, mode: str, directory: Path, settings: dict[str, Any]) -> None:
        self._rows: queue.SimpleQueue[dict[str, Any] | int] = queue.SimpleQueue()
        self._arguments = {"id": run_id, "mode": mode, "dir": str(directory), "resume": "allow", **settings}
        self._thread = threading.Thread(target=self._work, name="wandb-mirror", daemon=True)
        self._thread.start()

    def row(self, row: dict[str, Any]) -> None:
        """Queue one row."""
        self._rows.put(row)

    def event(self, row: dict[str, Any]) -> None:
        """Events stay in the local record."""

    def finish(self, exit_code: int) -> None:
        """Wait for the rows to be handed over, at most for the time-outs."""
        self._rows.put(exit_code)
        self._thread.join(INIT_TIMEOUT + FINISH_TIMEOUT)

    def _work(self) -> None:
        try:
            self._mirror()
        except Exception as error:  # a mirror may break; the run goes on with its local record, and says so
            print(f"warning: W&B mirror stopped: {error}", file=sys.stderr, flush=True)

    def _mirror(self) -> None:
        import wandb

        run = self._start(wandb)
        while not isinstance(row := self._rows.get(), int):
            kind = row["kind"]
            axes = {key: row[key] for key in AXES if key in row}
            values = {f"{kind}/{k}": v for k, v in row.items() if isinstance(v, int | float) and k not in AXES}
            run.log({**values, **axes})
        run.finish(exit_code=row)

    def _start(self, wandb: Any) -> Any:
        """Start the run; where the server does not answer in time, start it offline."""
        quiet = wandb.Settings(
            init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT, silent=True, console="off", disable_git=True,
            x_disable_stats=True,
        )  # fmt: skip
        try:
            run = wandb.init(settings=quiet, **self._arguments)
        except Exception as error:
            if self._arguments["mode"] != "online":
                raise
            print(f"warning: W&B is not reachable ({error}); mirroring offline", file=sys.stderr, flush=True)
            wandb.teardown()  # the failed start still holds the run's id
            run = wandb.init(settings=quiet, **{**self._arguments, "mode": "offline", "resume": None})
        run.define_metric("*", step_metric="step")
        for metric in METRICS:
            for kind in metric.rows if metric.better else ():
                best = "min" if metric.better == "lower" else "max"
                run.define_metric(f"{kind}/{metric.key}", step_metric="step", summary=f"{best},last")
        return run
