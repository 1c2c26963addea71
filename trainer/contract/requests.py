"""How a command of the control plane asks the data plane something: a process with a request on standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_INTERRUPTED, EXIT_USER_ERROR


def answer(run: Callable[[dict[str, Any]], None]) -> int:
    """Answer the request on standard input, and return the exit code. Texts need no terminal that knows UTF-8."""
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        run(json.load(sys.stdin))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0
