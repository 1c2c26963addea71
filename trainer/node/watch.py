"""The watch over a node's torchrun: passes signals on to its ranks, and acts on what other nodes leave behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from types import FrameType

import psutil

from trainer.contract.attempts import newest_attempt
from trainer.node.arguments import Node
from trainer.node.failure import oom_kills
from trainer.node.stacks import ASK

POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0  # between looks at the run directory
ANSWER_SECONDS = 0.5  # in which a rank writes its stacks; a signal that ends it may overtake the one that asks for them
PEER_GRACE = 10.0  # for ranks whose peers on another node have failed


class Watch:
    """Waits for `torchrun`, and acts on signals and on newer attempts meanwhile."""

    def __init__(
        self, node: Node, torchrun: subprocess.Popen[bytes], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.node = node
        self.torchrun = torchrun
        self.clock = clock
        self.asked_to_stop = False
        self.ranks_seen = False
        self.fenced = False
        self.told_at: float | None = None  # by the clock of the wall, as ranks record their ends
        self.oom_kills = oom_kills()
        self.kill_at: float | None = None
        self.most_ranks, self.asked_where = 0, False
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        signal.signal(ASK, lambda *_: self._ask_where())

    def until_end(self, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Return torchrun's exit code. `meanwhile` is called again and again."""
        look_at = self.clock()
        while self.torchrun.poll() is None:
            time.sleep(POLL_SECONDS)
            meanwhile()
            now = self.clock()
            if self.kill_at is not None and now > self.kill_at:
                self._kill()
            if now > look_at:
                look_at = now + LOOK_SECONDS
                self._look_around(now)
                if self.asked_to_stop:  # a rank that was still importing did not hear it
                    self._send(signal.SIGUSR1)
        return self.torchrun.returncode

    def _look_around(self, now: float) -> None:
        """Act on what others left in the run directory: a newer attempt, or a failure on another node."""
        ranks = len(self._ranks())
        self.ranks_seen = self.ranks_seen or bool(ranks)
        self.most_ranks = max(self.most_ranks, ranks)
        if 0 < ranks < self.most_ranks and not self.asked_where:  # a rank has ended, and these did not follow it
            self._ask_where()
        if newest_attempt(self.node.run_dir) > self.node.attempt:
            self.fenced = True
            self._kill()
        elif self.kill_at is None and any(self.node.logs.glob("failure_*.json")):
            self.kill_at = now + PEER_GRACE
            self._ask_where()
            time.sleep(ANSWER_SECONDS)
            self._send(signal.SIGTERM)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.asked_to_stop = True
        if not self._ranks() and not self.ranks_seen:  # nothing has started, so nothing is lost
            self._kill()  # when all ranks have ended, torchrun ends by itself, and its code says how they did
        self._send(signal.SIGUSR1 if number == signal.SIGUSR1 else signal.SIGTERM)
        if number != signal.SIGUSR1 and self.kill_at is None:
            self.kill_at = self.clock() + self.node.grace

    def _ask_where(self) -> None:
        """Have every rank write down its stacks and its last collective. A rank that was not ready yet ignores it."""
        self.asked_where = True
        self._signal(ASK)

    def _send(self, number: int) -> None:
        self.told_at = self.told_at or time.time()
        self._signal(number)

    def _signal(self, number: int) -> None:
        for rank in self._ranks():
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.send_signal(number)

    def _ranks(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self.torchrun.pid).children())
        return []

    def _kill(self) -> None:
        self.kill_at = None
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(self.torchrun.pid).children(recursive=True)
            for process in (psutil.Process(self.torchrun.pid), *below):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
