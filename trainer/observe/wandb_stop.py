"""Stop a run from its page in W&B: by the tag `stop`, or by the button. It saves and ends as at any stop signal."""

from __future__ import annotations

import os
import signal
import sys
import threading

from trainer.contract.run_dir import RunDir
from trainer.observe.wandb_connection import reason_of

TAG = "stop"
EVERY, TIMEOUT = 30.0, 10  # seconds between looks at the tags, and for the answer


class Stop:
    """Asks the first rank, process `parent`, to stop once somebody in W&B wants it to."""

    def __init__(self, run_dir: RunDir, parent: int, every: float = EVERY) -> None:
        self._run_dir, self._parent, self._every = run_dir, parent, every
        self._asked = False

    def watch(self, path: str) -> None:
        """Look at the tags of a run, `entity/project/id`, from time to time, in a thread that ends with the process."""
        threading.Thread(target=self._watch, args=(path,), name="stop-tag", daemon=True).start()

    def ask(self, by: str = "its button") -> None:
        """Ask once: the ranks agree, save, and leave."""
        if self._asked or os.getppid() != self._parent:
            return
        self._asked = True
        self._run_dir.record_event("stop_asked", by=f"W&B, {by}")
        os.kill(self._parent, signal.SIGUSR1)

    def _watch(self, path: str) -> None:
        import wandb

        pause, told = threading.Event(), False
        while not self._asked:
            try:
                if TAG in wandb.Api(timeout=TIMEOUT).run(path).tags:
                    self.ask(f"the tag {TAG}")
            except Exception as error:  # the next look may have an answer
                if not told:
                    print(f"warning: the tags in W&B cannot be read: {reason_of(error)}", file=sys.stderr, flush=True)
                told = True
            pause.wait(self._every)
