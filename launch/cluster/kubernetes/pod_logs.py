"""What pods print, read from the API server. Agents print what their ranks do, with `[RANK] ` in front of each line."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from launch.cluster.followed_status import FollowedStatus
from trainer.contract.errors import UserError

PAUSE_SECONDS = 2.0  # between questions how the job stands
LAST_SECONDS = 10.0  # for streams that do not end although their job has
WAIT_SECONDS = 0.1
_OF_A_RANK = re.compile(r"\[(\d+)\] ")


def line_of(pod: str, line: str, rank: int | None) -> list[str]:
    """Return a pod's line as `escala logs` shows it: that of a rank as everywhere, the agent's with the pod in front.

    With `rank`, the lines of that rank alone, and nothing in front.
    """
    found = _OF_A_RANK.match(line)
    if rank is not None:
        return [line[found.end() :]] if found is not None and int(found[1]) == rank else []
    return [line if found is not None else f"[{pod}] {line}"]


class PodFollower:
    """Follows all pods of a job, those too that come after a restart.

    `pods` returns them as the API gives them. `open_log` returns the response with one pod's log, which stays open
    while the pod runs. A stream that breaks off is opened again, and goes on behind the last line that it gave.
    """

    def __init__(
        self, pods: Callable[[], list[dict[str, Any]]], open_log: Callable[[str], Any], status: FollowedStatus
    ) -> None:
        self.pods = pods
        self.open_log = open_log
        self.status = status
        self.heard: queue.Queue[tuple[str, str | Exception]] = queue.Queue()
        self.readers: dict[str, threading.Thread] = {}
        self.given: dict[str, int] = {}  # lines of a pod that were read
        self.troubles: dict[str, str] = {}  # told once each

    def lines(self, rank: int | None) -> Iterator[str]:
        """Yield what the pods print, and what changes about the job, until it has ended."""
        over = False
        while not over:
            over = self.status.ended()  # asked before reading: what was printed before the end is still read
            self._open_new()
            yield from self.status.said()
            yield from self._heard(rank, LAST_SECONDS if over else PAUSE_SECONDS, over)

    def _heard(self, rank: int | None, seconds: float, over: bool) -> Iterator[str]:
        """Yield what arrives within a time; when the job is `over`, at most until all streams have ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            reading = any(reader.is_alive() for reader in self.readers.values())  # before the look at what they gave
            try:
                pod, said = self.heard.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                if over and not reading:
                    return
                continue
            if isinstance(said, str):
                yield from line_of(pod, said, rank)
            elif self.troubles.get(pod) != str(said):
                self.troubles[pod] = str(said)
                yield f"[{pod}] its log broke off: {said}"

    def _open_new(self) -> None:
        """Read every pod that has begun and is not read yet, or whose stream ended before it did."""
        try:
            pods = self.pods()
        except UserError:  # the status, asked in the same way, says so
            return
        for pod in pods:
            name, states = pod["metadata"]["name"], _states(pod)
            reader = self.readers.get(name)
            fresh = reader is None and ("running" in states or "terminated" in states)
            if fresh or (reader is not None and not reader.is_alive() and "running" in states):
                self.readers[name] = threading.Thread(target=self._read, args=(name,), daemon=True)
                self.readers[name].start()

    def _read(self, pod: str) -> None:
        """Put a pod's lines behind those that were given already."""
        known = self.given.get(pod, 0)
        try:
            for number, line in enumerate(_lines(self.open_log(pod)), 1):
                if number > known:
                    self.heard.put((pod, line))
                    self.given[pod] = number
        except Exception as error:  # of the client, of its transport: the one who follows is told
            self.heard.put((pod, error))


def _states(pod: dict[str, Any]) -> set[str]:
    """Return the words for the state of a pod's container: waiting, running, terminated."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return {word for status in statuses for word, value in (status.get("state") or {}).items() if value is not None}


def _lines(response: Any) -> Iterator[str]:
    """Yield the lines of a response that arrives piece by piece."""
    rest = b""
    try:
        for part in response.stream(amt=None, decode_content=False):
            *lines, rest = (rest + part).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)
        if rest:
            yield rest.decode("utf-8", "replace")
    finally:
        response.release_conn()
