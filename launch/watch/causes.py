"""What the words of a failure mean: its kind, and what helps. The first kind that fits counts."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """One kind of failure."""

    kind: str
    pattern: re.Pattern[str]
    helps: str


def _cause(kind: str, pattern: str, helps: str) -> Cause:
    return Cause(kind, re.compile(pattern, re.I), helps)


OUT_OF_MEMORY, NOT_A_NUMBER = "out of memory", "not a number"
CAUSES = (
    _cause(OUT_OF_MEMORY, r"OutOfMemory|out of memory|MemoryError|OUT_OF_MEMORY|oom.?kill", ""),
    _cause("disk full", r"No space left|File too large|Disk quota", "make room, or keep fewer checkpoints"),
    _cause(
        NOT_A_NUMBER, r"diverged|not a (finite )?number|\bnan\b|exit code 76",
        "lower optim.lr, lengthen schedule.warmup, or leave the data of that step out with --skip-steps",
    ),
    _cause("port in use", r"address already in use|EADDRINUSE", "start it again: another port is tried"),
    _cause(
        "missing package", r"ModuleNotFoundError|ImportError|No module named",
        "install the package where the ranks run; `escala preflight` checks every node",
    ),
    _cause(
        "stalled", r"watchdog:|no step finished",
        "look at the stacks in the log of that rank; the file system, a driver or a deadlock held it up",
    ),
    _cause(
        "a rank did not answer", r"timed out|time-?out|wait timeout",
        "look for a rank that stood still: its peers waited for it until parallel.timeout_seconds",
    ),
    _cause("time limit", r"time limit|TIMEOUT|DUE TO TIME", "raise time_limit, or start it again to go on"),
    _cause(
        "node lost", r"NODE_FAIL|node failure|no sign of life|lost (the )?(host|node)|rank server ended",
        "start it again",
    ),
    _cause("preempted", r"preempt|SIGTERM", "start it again to go on"),
    _cause("crash in native code", r"SIGSEGV|Segmentation fault|SIGBUS|SIGABRT|SIGILL", "look at the stack in its log"),
    _cause(
        "killed from outside", r"SIGKILL",
        "mostly the kernel for want of memory (`dmesg` on the host says so): lower batch.micro_batch or ask for more",
    ),
    _cause("missing file", r"FileNotFoundError|No such file", "`escala data verify` checks the data set"),
    _cause("a peer was lost", r"connection (reset|closed|refused)|broken pipe|closed by peer", "start it again"),
    _cause("a setting", r"^error: |exit code 2\b", "change what the message says"),
)  # fmt: skip
UNKNOWN = Cause("error", re.compile(""), "read the traceback; `escala logs` has the rest")


def cause_of(text: str) -> Cause:
    """Return the kind of failure that a text tells of."""
    return next((cause for cause in CAUSES if cause.pattern.search(text)), UNKNOWN)


# Parts of the plan's memory, and the setting that makes each smaller.
SETTINGS = {
    "activations": "parallel.recompute: full, or a smaller batch.micro_batch",
    "logits": "a smaller batch.micro_batch",
    "head": "a smaller batch.micro_batch",
    "working": "a smaller batch.micro_batch",
    "optimizer": "a higher parallel.zero_stage, or parallel.offload: optimizer",
    "gradients": "parallel.zero_stage: 2",
    "widening": "parallel.zero_stage: 2",
    "parameters": "parallel.zero_stage: 3, or a higher parallel.tensor",
    "tied": "a higher parallel.tensor",
    "buffers": "a lower parallel.zero_stage",
}
