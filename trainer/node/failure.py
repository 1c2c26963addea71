"""Why a rank ended: the line of its log that says so, and the name of its signal. Free of torch, for both halves."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from trainer.contract.plain_text import plain

TAIL_BYTES = 64 * 1024
# The last line of a traceback: `torch.OutOfMemoryError: ...`, `KeyError: 'x'`, `error: ...` of a user error.
_ERROR_LINE = re.compile(
    r"^(?:[\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\b.*|[Ee]rror: .*|Fatal Python error: .*|watchdog: .*)$"
)
_ABORTED = re.compile(r"^Fatal Python error: Aborted")
_CPP_ERROR = re.compile(r"^what\(\):\s+(.+)$")  # why C++ aborted, such as NCCL's watchdog
_RANK_PREFIX = re.compile(r"^\[rank\d+\]: ")  # torch puts it in front of tracebacks
_PORT_TAKEN = re.compile(r"EADDRINUSE|address already in use", re.I)
_KILLED = "killed from outside, often for want of memory (then the kernel's log, `dmesg`, says so)"
_STAYED = "killed, for it was asked to end and did not"
_OUT_OF_MEMORY = "out of memory: the kernel killed it"


def last_error_line(log: Path) -> str:
    """Return the last line that names an error, else the last line that is not empty, else ""."""
    return error_line(tail(log))


def error_line(text: str) -> str:
    """Return the last line of an output that names an error, else its last line that is not empty, else ""."""
    lines = [_RANK_PREFIX.sub("", line).strip() for line in plain(text).splitlines()]
    lines = [line for line in lines if line and not line.startswith("--- ")]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    reasons = [found[1] for line in lines if (found := _CPP_ERROR.match(line))]
    if named and reasons and _ABORTED.match(named[-1]):
        return reasons[-1][:500]
    return (named or lines or [""])[-1][:500]


def why_ended(log: Path, code: int, *, oom_kills: int | None = None, told: bool = False) -> str:
    """Return what the end of a rank's log says, and for a rank that was killed, which logs nothing, what that means.

    `oom_kills` is how many processes the kernel has ended for want of memory while the rank ran, where it is known.
    `told` is whether the rank had been asked to end.
    """
    line = last_error_line(log)
    if signal_name(code) != "SIGKILL":
        return line
    return (_OUT_OF_MEMORY if oom_kills else _STAYED if told else _KILLED) + (
        f"; its last line: {line}" if line else ""
    )


def tail(log: Path, size: int = TAIL_BYTES) -> str:
    """Return the end of a text file; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - size))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def port_was_taken(log: Path) -> bool:
    """Tell whether the rank ended because its rendezvous port was in use: worth another try with another port."""
    return says_port_taken(tail(log))


def says_port_taken(text: str) -> bool:
    """Tell whether an error is that of a port in use."""
    return _PORT_TAKEN.search(text) is not None


def signal_name(code: int) -> str | None:
    """Return the signal behind an exit code, as `subprocess` (negative) or a shell (128 + n) reports it."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name if number > 0 else None
    except ValueError:
        return None


def oom_kills(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return how many processes of this control group the kernel has ended for want of memory; None where unknown.

    Both versions of control groups count them: `memory.events` (2) and `memory.oom_control` (1).
    """
    try:
        rows = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    places = [cgroups / path.lstrip("/") / "memory.events" for number, _, path in rows if number == "0"]
    for _, names, path in rows:
        if "memory" in names.split(","):
            places += [cgroups / "memory" / part / "memory.oom_control" for part in (path.lstrip("/"), "")]
    for place in places:
        try:
            found = re.search(r"^oom_kill (\d+)$", place.read_text(), re.M)
        except OSError:
            continue
        if found:
            return int(found[1])
    return None
