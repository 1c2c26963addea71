"""What ends a command as Ctrl-C does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from launch.commands.interrupts import interrupts


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    before = signal.getsignal(request.param)
    yield request.param
    signal.signal(request.param, before)


def test_the_end_of_a_terminal_or_a_job_interrupts_what_runs_and_nothing_later(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt), interrupts():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.SIG_DFL


def test_what_nohup_has_ignored_ends_nothing(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with interrupts():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.SIG_IGN
