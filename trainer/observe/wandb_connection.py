"""One run of W&B, through its client: rows, alerts, artifacts by reference, the summary. Nothing here knows the ranks.

The client keeps its state in its process, so each process that sends has one `Connection` at a time.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainer.contract.exit_codes import EXIT_DIVERGED, EXIT_DONE, EXIT_FAILED
from trainer.contract.hiding import without_secrets
from trainer.contract.run_dir import RunDir, Status
from trainer.observe import wandb_run
from trainer.observe.metrics import AXES
from trainer.observe.wandb_alerts import Alert

INIT_TIMEOUT, FINISH_TIMEOUT = 15.0, 30.0  # seconds; nobody waits for them but this process
CONNECT_TIMEOUT = 5.0
SAME_ALERT = 300  # seconds between two alerts of one title
ENDED_AS = {Status.DONE: EXIT_DONE, Status.FAILED: EXIT_FAILED, Status.DIVERGED: EXIT_DIVERGED}


class Connection:
    """One W&B run, resumed where the server's history ends. `close` it: only that hands over the last rows.

    A `live` one measures the machine of the process `watched`, and calls `stop` where a person stops the run in W&B.
    Raises what the client raises where the server cannot be reached or refuses.
    """

    def __init__(
        self, run_dir: RunDir, directory: Path, *, watched: int | None = None, stop: Callable[[], None] | None = None
    ) -> None:
        import wandb

        self._flops = wandb_run.flops_per_token(run_dir)
        self._defined: set[str] = set()
        self._run_dir = run_dir
        settings = client_settings(watched, final=run_dir.read_status() in ENDED_AS, stop_fn=stop)
        try:
            self._run = wandb.init(
                settings=settings, mode="online", dir=str(directory), resume="allow", **wandb_run.arguments(run_dir)
            )
        except BaseException:
            wandb.teardown()  # the failed start still holds the run's id
            raise
        self.next_number = int(self._run.starting_step)
        self.path = f"{self._run.entity}/{self._run.project}/{self._run.id}"
        for axis in (*AXES, wandb_run.FLOPS):
            self._run.define_metric(axis, hidden=axis != "step")
        self._run.define_metric("*", step_metric="step")

    def send(self, rows: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Queue rows under their numbers. Does not wait for the server."""
        for number, row in rows:
            values = wandb_run.values_of(row, self._flops)
            for name in values.keys() - self._defined:
                self._define(name)
            self._run.log(values, step=number, commit=True)

    def alert(self, alert: Alert) -> None:
        """Queue an alert, which W&B sends on to whom its settings say."""
        self._run.alert(alert.title, without_secrets(alert.text), level=alert.level, wait_duration=SAME_ALERT)

    def _define(self, name: str) -> None:
        self._defined.add(name)
        metric = wandb_run.metric_of(name)
        if metric is not None and metric.better:
            best = "min" if metric.better == "lower" else "max"
            self._run.define_metric(name, step_metric="step", summary=f"{best},last")

    def close(self, *, refer: bool = False) -> None:
        """Hand over what is queued, at most for the time-out, with the final numbers where the run is over.

        With `refer` also the artifacts, where it is over.
        """
        status = self._run_dir.read_status() or Status.RUNNING
        self._run.summary.update(wandb_run.summary_of(self._run_dir))
        if refer and status in ENDED_AS:
            self._refer()
        self._run.finish(exit_code=ENDED_AS.get(status, EXIT_FAILED))

    def _refer(self) -> None:
        """Name the tokenizer and the checkpoints as artifacts, by where they lie: no byte of them is sent."""
        import wandb

        for kind, place in wandb_run.artifacts_of(self._run_dir):
            artifact = wandb.Artifact(f"{kind}-{self._run.id}", type=kind)
            artifact.add_reference(place.absolute().as_uri(), name=place.name, checksum=False)
            try:
                self._run.log_artifact(artifact, aliases=["latest", place.name])
            except Exception as error:  # rows and summary go first: a server may have no artifacts
                print(f"warning: W&B has no reference to {place}: {reason_of(error)}", file=sys.stderr, flush=True)


def open_node(run_dir: RunDir, node: str, directory: Path, watched: int) -> Callable[[], None]:
    """Open a run for the load of one more node, beside the run itself in its group; return how to close it.

    The client measures the machine that it runs on, and a run of W&B has one writer: so the others are runs of job type
    `node`, which have no history.
    """
    import wandb

    arguments = wandb_run.arguments(run_dir)
    of = {
        "id": f"{arguments['id']}-{node}", "name": f"{arguments['name']}/{node}", "job_type": "node",
        "group": arguments["group"] or arguments["name"], "config": {"node": node, "run": arguments["id"]},
    }  # fmt: skip
    try:
        settings = client_settings(watched, final=True)
        run = wandb.init(settings=settings, mode="online", dir=str(directory), resume="allow", **{**arguments, **of})
    except BaseException:
        wandb.teardown()
        raise
    return lambda: run.finish(exit_code=EXIT_DONE)


def client_settings(watched: int | None, *, final: bool, stop_fn: Callable[[], None] | None = None) -> Any:
    """Return the client's settings: quiet, and nothing of code, console or machine but its load where it is watched."""
    import wandb

    return wandb.Settings(
        init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT, silent=True, console="off", disable_git=True,
        disable_code=True, save_code=False, x_disable_meta=True, x_save_requirements=False,
        x_disable_stats=watched is None, x_disable_machine_info=watched is None, x_stats_pid=watched or 0,
        x_update_finish_state=final, stop_fn=stop_fn,
    )  # fmt: skip


def unreachable() -> str | None:
    """Return why nothing listens where the client would go; None where something does, or only a proxy would know."""
    import wandb

    address = urlsplit(str(wandb.setup().settings.base_url))
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy")):
        return None
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        with socket.create_connection((address.hostname or "", port), timeout=CONNECT_TIMEOUT):
            return None
    except OSError as error:
        return f"{address.scheme}://{address.hostname}:{port} cannot be reached: {error.strerror or error}"


def reason_of(error: Exception) -> str:
    """Return what an error of the client says, in one line."""
    return without_secrets(" ".join(str(error).split()) or type(error).__name__)[:300]
