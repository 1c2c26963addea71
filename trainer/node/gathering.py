"""An agent's part in the meeting of the nodes: it leaves when it is told to, and records who did not come."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trainer.contract.errors import UserError
from trainer.contract.exit_codes import (
    AGREED_EXITS,
    EXIT_FAILED,
    EXIT_FENCED,
    EXIT_PORT_TAKEN,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
)
from trainer.node.first_failure import blame_node, recorded_failure
from trainer.node.meeting import AbsentError, Meeting, Party, PortTakenError, meet


class Leave(Exception):  # noqa: N818 - no error: it carries an exit code out of a start
    """This agent has nothing to start."""

    def __init__(self, code: int) -> None:
        super().__init__(f"leave with code {code}")
        self.code = code


@contextmanager
def leaving_when_told() -> Iterator[None]:
    """Have SIGUSR1 and SIGTERM raise `Leave` in the block, as saved: nothing has begun."""

    def leave(*_: object) -> None:
        raise Leave(EXIT_PREEMPTED)

    before = {number: signal.signal(number, leave) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def gather(party: Party, superseded: Callable[[], bool]) -> Meeting | int:
    """Return where the nodes meet, or the exit code of an agent that has nothing to start.

    A signal ends it as saved. So do a newer attempt, and another node that has failed, each with its code.
    """

    def check() -> None:
        if superseded():
            raise Leave(EXIT_FENCED)
        if any(party.logs.glob("failure_*.json")):
            failure = recorded_failure(party.logs)
            raise Leave(failure.code if failure is not None and failure.code in AGREED_EXITS else EXIT_FAILED)

    try:
        with leaving_when_told():
            return meet(party, check)
    except Leave as left:
        return left.code
    except (AbsentError, PortTakenError, UserError) as error:
        codes: dict[type[Exception], int] = {PortTakenError: EXIT_PORT_TAKEN, UserError: EXIT_USER_ERROR}
        code = codes.get(type(error), EXIT_FAILED)
        blame_node(party.logs, code, str(error))
        return code
