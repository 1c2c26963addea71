"""Run a program as one rank of `torchrun`: `python -m trainer.node.rank PROGRAM ARGS...`; PROGRAM may be `-m MODULE`.

It puts the rank's output into logs/<attempt>/rank_<r>.log (appending, so that restarts stay readable) and, where the
rank ends badly, writes the error file that torchrun named to it, from which the agent says who failed first. Codes by
which ranks leave in agreement (saved and stopped, diverged, user error) are written there too and become 0: `torchrun`
must not restart them, nor end peers that are still saving.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from trainer.contract.exit_codes import AGREED_EXITS, EXIT_FAILED
from trainer.contract.hiding import traceback_text, without_secrets
from trainer.node.error_files import link_output, write_error
from trainer.node.stacks import dump_on_signal

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Entry point of a rank."""
    die_with(os.getppid())
    rank, logs = int(os.environ["RANK"]), Path(os.environ["ESCALA_LOGS"])
    redirect(logs / f"rank_{rank}.log")
    link_output(logs / f"rank_{rank}.log")
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if restart != "0":
        print(f"--- restart {restart} ---", flush=True)
    faulthandler.enable()
    dump_on_signal(logs / f"rank_{rank}.log")
    # The agent passes SIGUSR1 on as soon as it comes. Until the program has its own handler, it must not kill the rank.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    code, text = run_and_catch(sys.argv[1:], Path.cwd())
    if code != 0:
        write_error(rank, code, text)
    return 0 if code in AGREED_EXITS else code


def run_and_catch(argv: list[str], cwd: Path) -> tuple[int, str]:
    """Run a program. Return its exit code, and what went to standard error as Python would print it: a traceback."""
    try:
        run_program(argv, cwd)
    except SystemExit as stop:
        text = stop.code if isinstance(stop.code, str) else ""
        if text:
            print(text, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None), text
    except BaseException as error:
        text = traceback_text(error)
        print(text, end="", file=sys.stderr)
        return EXIT_FAILED, text
    return 0, ""


def run_program(argv: list[str], cwd: Path) -> None:
    """Run `python ARGV` in this interpreter. `argv` is ("-m", MODULE, ...) or (FILE, ...)."""
    program, *rest = argv
    if program == "-m":
        module, *rest = rest
        sys.argv = [module, *rest]
        sys.path[0] = str(cwd)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [program, *rest]
        sys.path[0] = str(Path(program).resolve().parent)
        runpy.run_path(program, run_name="__main__")


def redirect(log: Path) -> None:
    """Send this process's output to the end of a log file and give it an empty input."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (descriptor, 1), (descriptor, 2)):
        os.dup2(source, target)
    sys.stdout, sys.stderr = (_log_stream(number) for number in (1, 2))


class _Lossy(io.FileIO):
    """A file that loses what a full disk does not take: a line of a log is no reason to end a run."""

    def write(self, content: Any) -> int:
        """Write what there is room for, and return the length of all of it."""
        with contextlib.suppress(OSError):
            super().write(content)
        return memoryview(content).nbytes


class _LogText(io.TextIOWrapper):
    """The text that Python prints: no secret of the environment comes into a log, whoever prints it."""

    def write(self, text: str) -> int:
        """Write a text without the values of secrets, and return its own length."""
        super().write(text if text.isspace() else without_secrets(text))
        return len(text)


def _log_stream(descriptor: int) -> io.TextIOWrapper:
    binary = io.BufferedWriter(_Lossy(descriptor, "w", closefd=False))
    return _LogText(binary, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. Only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(EXIT_FAILED)


if __name__ == "__main__":
    sys.exit(main())
