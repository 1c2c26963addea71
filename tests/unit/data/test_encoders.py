"""The pool of encoding processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.contract.errors import UserError
from trainer.data.prepare.encode import Encoders, SplitRule
from trainer.data.tokenize.tokenizer import save_tokenizer


@pytest.mark.parametrize("unread", [False, True])
def test_a_killed_process_is_said_with_what_to_do(tmp_path: Path, unread: bool) -> None:
    """Its pipe breaks when more is sent; with text in it that was never read, waiting for the answer is a reset."""
    save_tokenizer(tmp_path, "bytes", b"")

    def chunks() -> Iterator[list[bytes]]:
        if unread:
            for process in encoders._processes:
                os.kill(process.pid or 0, signal.SIGSTOP)
            yield [b"text that is never read"]
        for process in encoders._processes:
            process.kill()
            process.join()
        if not unread:
            yield [b"text for nobody"]

    with Encoders(tmp_path, "uint16", 2) as encoders, pytest.raises(UserError, match="killed, most likely for want of"):
        for _ in encoders.encode(chunks(), SplitRule(0.0)):
            pass
