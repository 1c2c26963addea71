"""An agent's part in the meeting of the nodes: it leaves when it is told to, and records who did not come."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_FAILED, EXIT_FENCED, EXIT_PORT_TAKEN, EXIT_PREEMPTED, EXIT_USER_ERROR
from trainer.node.first_failure import Ending
from trainer.node.meeting import AbsentError, Meeting, Party, PortTakenError, meet


class _Leave(Exception):  # noqa: N818 - no error: it carries an exit code out of the meeting
    pass


def gather(party: Party, superseded: Callable[[], bool]) -> Meeting | int:
    """Return where the nodes meet, or the exit code of an agent that has nothing to start.

    SIGUSR1 and SIGTERM end it as saved: nothing has begun. So do a newer attempt, and another node that has failed.
    """

    def leave(*_: object) -> None:
        raise _Leave(EXIT_PREEMPTED)

    def check() -> None:
        if superseded():
            raise _Leave(EXIT_FENCED)
        if any(party.logs.glob("failure_*.json")):
            raise _Leave(EXIT_FAILED)

    signals = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, leave) for number in signals}
    try:
        return meet(party, check)
    except _Leave as left:
        return int(left.args[0])
    except (AbsentError, PortTakenError, UserError) as error:
        codes: dict[type[Exception], int] = {PortTakenError: EXIT_PORT_TAKEN, UserError: EXIT_USER_ERROR}
        return _record(party, error, codes.get(type(error), EXIT_FAILED))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _record(party: Party, error: Exception, code: int) -> int:
    """Leave the failure where `escala jobs` looks for it, and where the other agents do."""
    Ending(-1, party.me, code, time.time(), str(error)).write(party.logs)
    print(f"error: {error}", flush=True)
    return code
