"""Run a program with its output in a log: `python -m trainer.node.logged LOG PROGRAM ARGS...`.

PROGRAM is a file or `-m MODULE`. For ranks that are started one by one, without `torchrun`: their log is like that of
other ranks. On a full disk it loses lines and ends nothing, and it holds no secret of the environment.
"""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

from trainer.node.rank import redirect, run_and_catch
from trainer.node.stacks import dump_on_signal


def main() -> int:
    """Entry point. Returns the program's exit code."""
    log, *program = sys.argv[1:]
    redirect(Path(log))
    faulthandler.enable()
    dump_on_signal(Path(log))
    return run_and_catch(program, Path.cwd())[0]


if __name__ == "__main__":
    sys.exit(main())
