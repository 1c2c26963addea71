"""W&B as a mirror of the local record. A process of its own sends it: training never waits for that or fails with it.

The record in metrics.jsonl is the truth, and nothing else is kept for W&B: with no server, no network or no credentials
nothing is lost, and `escala wandb sync` sends what is missing, in whatever way the run ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from trainer.contract.run_dir import RunDir
from trainer.observe.observers import Row

MODES = {"online": "online", "offline": "offline", "disabled": "disabled"}
SENDER = "trainer.observe.wandb_sender"
LOG = "wandb.log"
SCHEDULERS = ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST")  # they end what a job leaves running
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # of clients until and from 0.31


def resolve_mode(choice: str) -> str:
    """Return wandb's mode. `auto` is $WANDB_MODE where that is set, online with credentials, and offline without."""
    if choice != "auto":
        return MODES[choice]
    if os.environ.get("WANDB_MODE") in MODES:
        return os.environ["WANDB_MODE"]
    return "online" if os.environ.get("WANDB_API_KEY") or _has_netrc_entry() else "offline"


def _has_netrc_entry() -> bool:
    own = os.environ.get("WANDB_BASE_URL")
    hosts = (own.split("//")[-1].split("/")[0].split(":")[0],) if own else HOSTS
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return path.exists() and any(f"machine {host}" in path.read_text(errors="replace") for host in hosts)


class WandbMirror:
    """Starts the sender of a run. It follows the file of the local record, so that nothing has to be told to it.

    With `node`, on another node than the first rank's, the sender measures that machine and sends nothing else.
    """

    def __init__(self, run_dir: RunDir, node: str = "") -> None:
        self._root = run_dir.root
        self._sender: subprocess.Popen[bytes] | None = None
        log = run_dir.root / (f"wandb_{node}.log" if node else LOG)
        command = [sys.executable, "-m", SENDER, str(run_dir.root.absolute()), "--parent", str(os.getpid())]
        command += ["--node", node] if node else []
        try:
            with log.open("ab") as out:  # not this rank's output: the sender outlives it, and keeps no pipe open
                self._sender = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=out, stderr=out, env=_environment(), start_new_session=True
                )
        except OSError as error:
            print(f"warning: W&B does not mirror this run: {error}", file=sys.stderr, flush=True)

    def row(self, row: Row) -> None:
        """The sender reads rows from the record."""

    def event(self, row: Row) -> None:
        """Events stay in the local record."""

    def finish(self, exit_code: int) -> None:
        """Tell the sender that the run is over. It sends the rest by itself: nobody waits for it."""
        if self._sender is None or self._sender.stdin is None:
            return
        self._sender.stdin.close()
        if any(name in os.environ for name in SCHEDULERS):
            print(
                f"note: the scheduler may end the sender to W&B with this job: `escala wandb sync {self._root}` sends "
                "what is missing then", file=sys.stderr, flush=True,
            )  # fmt: skip


def _environment() -> dict[str, str]:
    """Return the environment of the sender: this one, with the place of this program, and a client of its own."""
    place = str(Path(__file__).resolve().parents[2])
    paths = [place, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"} | {"PYTHONPATH": os.pathsep.join(paths)}
