"""Why a rank ended: the line of its log that says so, and the name of its signal. Free of torch, for both halves."""

from __future__ import annotations

import re
import signal
from pathlib import Path

TAIL_BYTES = 64 * 1024
# The last line of a traceback: `torch.OutOfMemoryError: ...`, `KeyError: 'x'`, `error: ...` of a user error.
_ERROR_LINE = re.compile(
    r"^(?:[\w.]*(?:Error|Exception|Interrupt|Exit|Warning)\b.*|[Ee]rror: .*|Fatal Python error: .*)$"
)
_RANK_PREFIX = re.compile(r"^\[rank\d+\]: ")  # torch puts it in front of tracebacks
_PORT_TAKEN = re.compile(r"EADDRINUSE|[Aa]ddress already in use")


def last_error_line(log: Path) -> str:
    """Return the last line that names an error, else the last line that is not empty, else ""."""
    lines = [_RANK_PREFIX.sub("", line).strip() for line in tail(log).splitlines()]
    lines = [line for line in lines if line and not line.startswith("--- ")]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    return (named or lines or [""])[-1][:500]


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
    return _PORT_TAKEN.search(tail(log)) is not None


def signal_name(code: int) -> str | None:
    """Return the signal behind an exit code, as `subprocess` (negative) or a shell (128 + n) reports it."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name if number > 0 else None
    except ValueError:
        return None
