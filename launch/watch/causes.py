"""The kinds of failure: the words that tell of each, what helps, and what else to look at. The first that fits counts.

To add a kind, add an entry to `CAUSES`; `docs/watching.md` lists them, which a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from launch.run.newest_step import newest_step
from launch.watch.evidence import Evidence
from launch.watch.memory_evidence import memory
from launch.watch.rank_positions import waited_for
from trainer.contract.plain_json import rows_of
from trainer.contract.run_dir import RunDir

Look = Callable[[RunDir, int | None], Evidence]  # (run, the rank that failed first) -> what more is known


@dataclass(frozen=True)
class Cause:
    """One kind of failure."""

    kind: str
    pattern: re.Pattern[str]
    helps: str
    look: Look | None = None


def _cause(kind: str, pattern: str, helps: str, look: Look | None = None) -> Cause:
    return Cause(kind, re.compile(pattern, re.I), helps, look)


def _not_finite(run_dir: RunDir, _: int | None) -> Evidence:
    """Return the last steps before a divergence, and which module made what was not finite."""
    rows = list(rows_of(run_dir.events, "event", "step"))
    skipped = [row for row in rows if row["event"] == "step_skipped"]
    traced = [row for row in rows if row["event"] == "non_finite_traced"]
    last = newest_step(run_dir)
    found = [f"the last step that was recorded: {last['step']}, loss {last['loss']}"] if last else []
    if skipped:
        found.append(f"{len(skipped)} steps were not finite, the first of them step {skipped[0]['step']}")
    if traced:
        found.append(f"step {traced[-1]['step']} taken again: {traced[-1].get('says', '')}")
    transient = bool(traced) and traced[-1].get("repeats") is False
    rank = traced[-1].get("rank") if traced else None
    step = skipped[-1]["step"] if skipped else None
    return Evidence(
        found,
        "start it again from its checkpoint; if it comes back on that host, leave the host out" if transient else "",
        options=[f"--skip-steps {step - 1}:{step}"] if isinstance(step, int) and step > 0 and not transient else [],
        rank=rank if isinstance(rank, int) else None,
        host=str(traced[-1].get("host", "")) if traced else "",
    )


def _killed(run_dir: RunDir, rank: int | None) -> Evidence:
    """Return what was planned and measured of memory: it may have run out, and need not."""
    return Evidence(memory(run_dir, rank).details)


def _waiting(run_dir: RunDir, _: int | None) -> Evidence:
    return waited_for(run_dir)


NOT_A_NUMBER = "not a number"
CAUSES = (
    _cause("no progress", r"saved nothing newer", "save more often (checkpoint.minutes), or raise time_limit"),
    _cause("replaced", r"was replaced by attempt|newer attempt of this run", "nothing: the newer attempt goes on"),
    _cause(
        "out of memory", r"OutOfMemory|out of memory|MemoryError|OUT_OF_MEMORY|oom.?kill|can.?not allocate memory"
        r"|can't allocate memory", "lower batch.micro_batch", memory,
    ),
    _cause("disk full", r"No space left|File too large|Disk quota", "make room, or keep fewer checkpoints"),
    _cause(
        NOT_A_NUMBER, r"diverged|not a (finite )?number|\bnan\b|exit code 76",
        "lower optim.lr, lengthen schedule.warmup, or leave the data of that step out with --skip-steps", _not_finite,
    ),
    _cause("port in use", r"address already in use|EADDRINUSE", "start it again: another port is tried"),
    _cause(
        "missing package", r"ModuleNotFoundError|ImportError|No module named",
        "install the package where the ranks run; `escala preflight` checks every node",
    ),
    _cause(
        "data stall", r"watchdog: .* at data/|wait(s|ed) for the data",
        "look at the disk that holds the token set, or copy the set to a faster one", _waiting,
    ),
    _cause(
        "stalled", r"watchdog:|no step finished",
        "look at the stacks in the log of that rank; the file system, a driver or a deadlock held it up", _waiting,
    ),
    _cause(
        "time limit", r"time limit|^timeout\b|DUE TO TIME|\bdeadline\b", "raise time_limit, or start it again to go on"
    ),
    _cause(
        "a rank did not answer", r"timed out|time-?out|wait timeout",
        "look for a rank that stood still: its peers waited for it until parallel.timeout_seconds", _waiting,
    ),
    _cause(
        "node lost", r"NODE.FAIL|BOOT.FAIL|no sign of life|lost (the )?(host|node)|node .* was lost|rank server ended",
        "start it again",
    ),
    _cause("preempted", r"preempt|SIGTERM", "start it again to go on"),
    _cause(
        "GPU fault", r"CUDA error|uncorrectable|\bECC\b|\bXid\b|unhandled (cuda|system) error|cudaError",
        "look at `nvidia-smi` and the kernel's log on that host, and leave it out if it comes back",
    ),
    _cause(
        "crash in native code", r"SIGSEGV|Segmentation fault|SIGBUS|SIGABRT|SIGILL|SIGFPE",
        "look at the stack in its log",
    ),
    _cause(
        "killed from outside", r"SIGKILL",
        "mostly the kernel for want of memory (`dmesg` on the host says so): lower batch.micro_batch or ask for more",
        _killed,
    ),
    _cause("missing file", r"FileNotFoundError|No such file", "`escala data verify` checks the data set"),
    _cause(
        "no permission", r"PermissionError|Permission denied|Read-only file system",
        "ask for the right, or name another place",
    ),
    _cause("a peer was lost", r"connection (reset|closed|refused)|broken pipe|closed by peer", "start it again"),
    _cause("a setting", r"^error: |exit code 2\b", "change what the message says"),
)  # fmt: skip
UNKNOWN = Cause("error", re.compile(""), "read the traceback; `escala logs` has the rest")


def cause_of(text: str) -> Cause:
    """Return the kind of failure that a text tells of."""
    return next((cause for cause in CAUSES if cause.pattern.search(text)), UNKNOWN)
