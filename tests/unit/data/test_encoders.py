"""The pool of encoding processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from trainer.data.encode import Encoders, SplitRule
from trainer.data.tokenizer import save_tokenizer
from trainer.errors import UserError


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_process_is_said_with_what_to_do(tmp_path: Path, busy: bool) -> None:
    """Whether its pipe was empty, whose end is an end of file, or had text in it, whose end is a reset."""
    save_tokenizer(tmp_path, "bytes", b"")

    def chunks():
        if busy:
            for process in encoders._processes:
                os.kill(process.pid, signal.SIGSTOP)
            yield [b"text that is never read"]
        for process in encoders._processes:
            process.kill()
            process.join()
        while True:
            yield [b"more text"]

    with Encoders(tmp_path, "uint16", 2) as encoders, pytest.raises(UserError, match="killed, most likely for want of"):
        for _ in encoders.encode(chunks(), SplitRule(0.0)):
            pass
