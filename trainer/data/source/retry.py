"""Read from a source that may fail or fall silent, without losing or repeating a row and without hanging."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from trainer.contract.errors import UserError

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

T = TypeVar("T")
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
AHEAD = 32  # rows, which may be large
NETWORK_LIBRARIES = (
    "aiohttp", "botocore", "urllib3", "requests", "httpx", "httpx2", "httpcore", "httpcore2", "huggingface_hub",
)  # fmt: skip
LAYERS = 8  # of errors that were raised from others
_END = object()


def steadily(
    open_at: Callable[[int], Iterator[T]],
    *,
    name: str,
    retries: int,
    stall_seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[T]:
    """Yield what `open_at(0)` yields. After an error of input or output it is opened again where it stopped.

    A row that comes resets the count of retries. Raises UserError with the source's name after `retries` failures in a
    row, after `stall_seconds` without a row, and at once for any other error.
    """
    given = 0
    try:
        for attempt in with_pauses(retries, sleep):
            with attempt:
                for row in _watched(open_at, given, name, stall_seconds):
                    given += 1
                    attempt.retry_state.attempt_number = 1
                    yield row
                return
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 after {given} rows: {short(error)}; convert it, for instance with iconv"
        ) from None
    except Exception as error:
        if not may_pass(error):
            raise UserError(f"{name} cannot be read: {short(error)}") from error
        raise UserError(
            f"{name} failed {retries + 1} times in a row after {given} rows: {short(error)}; "
            f"what was finished is kept, run the same command again"
        ) from None


def _watched(open_at: Callable[[int], Iterator[T]], skip: int, name: str, stall_seconds: float) -> Iterator[T]:
    """Read ahead in a thread, so that a read that never returns is noticed."""
    rows: queue.Queue[object] = queue.Queue(AHEAD)
    stop = threading.Event()

    def give(item: object) -> bool:
        while not stop.is_set():
            try:
                rows.put(item, timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            if all(give(row) for row in open_at(skip)):
                give(_END)
        except BaseException as error:  # carried to the reader
            give(error)

    threading.Thread(target=read, name=f"read {name}", daemon=True).start()
    try:
        while True:
            try:
                item = rows.get(timeout=stall_seconds)
            except queue.Empty:
                raise UserError(
                    f"{name} gave nothing for {stall_seconds:g} s; see to its server or network, or raise stall_seconds"
                ) from None
            if item is _END:
                return
            if isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]
    finally:
        stop.set()


def may_pass(error: BaseException) -> bool:
    """Return whether trying again may help: trouble of networks and disks, but not what is missing or forbidden."""
    if isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)):
        return False
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    if status in (400, 401, 403, 404, 410):
        return False
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in NETWORK_LIBRARIES


def with_pauses(
    retries: int, sleep: Callable[[float], None], worth_it: Callable[[BaseException], bool] | None = None
) -> Retrying:
    """Return what tries again, at most `retries` times, after errors that `worth_it` accepts (default: `may_pass`).

    In the end it raises the error itself.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    again = retry_if_exception(worth_it or may_pass)
    return Retrying(stop=stop_after_attempt(retries + 1), wait=pause_after, retry=again, sleep=sleep, reraise=True)


def pause_after(state: RetryCallState) -> float:
    """Return the seconds to wait after a failure.

    They double and vary by chance, so that a thousand jobs do not return at once, and are no fewer than the server asks
    for.
    """
    from tenacity import wait_exponential

    assert state.outcome is not None
    error = state.outcome.exception()
    assert error is not None
    chance = random.random()  # noqa: S311
    growing = wait_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)(state)
    return max(growing * (0.5 + chance), asked_pause(error) * (1 + chance / 2))


def asked_pause(error: BaseException) -> float:
    """Return the seconds for which a server asked to be left alone, or 0."""
    for layer in _layers(error):
        for holder in (layer, getattr(layer, "response", None)):
            value = (getattr(holder, "headers", None) or {}).get("Retry-After", "")
            if value.isdigit():  # the other form, a date, is not in use by those who limit rates
                return float(value)
    return 0.0


def _layers(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    for _ in range(LAYERS):
        if error is None:
            return
        yield error
        error = error.__cause__


def short(error: BaseException) -> str:
    """Return the kind of an error and its first line, and those of the error that it was raised from."""
    first, *others = (
        f"{type(layer).__name__}: {next((line for line in str(layer).splitlines() if line.strip()), '')}"
        for layer in _layers(error)
    )
    return f"{first} ({others[-1]})" if others else first
