"""Copies to a device: begun one step ahead, beside the computing, and waited for by the device alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.unit.data.builders import open_train, random_docs, write_set
from trainer.contract.errors import UserError
from trainer.data.read.batches import Batches, MicroBatch
from trainer.data.read.transfer import Transfer, mapped

T, S = 16, 4


class FakeStream:
    """A stream that writes down what happens: copies inside of it, marks, and waits for them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.within, self.marks = threading.local(), 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        self.within.now = True
        yield
        self.within.now = False

    def mark(self) -> int:
        self.marks += 1
        self.log.append(("copied", self.marks))
        return self.marks

    def wait(self, mark: int, tensors: Any) -> None:
        self.log.append(("waited", mark))


def batches_of(
    tmp_path: Any, stream: FakeStream, check: Any = lambda batch: None, device: str = "meta"
) -> tuple[Batches, list[bool]]:
    """Return batches that are copied to a device, by default one without memory, and whether each was page-locked."""
    write_set(tmp_path / "made", {"a": random_docs(1, 60)}, shard_tokens=500)
    locked: list[bool] = []

    def pin(batch: MicroBatch) -> MicroBatch:
        locked.append(getattr(stream.within, "now", False))
        return mapped(batch, torch.clone)

    transfer = Transfer(torch.device(device), check, stream=stream, pin=pin)
    return Batches(
        open_train(tmp_path / "made"), context_length=T, sequences_per_step=S, micro_batch=2, seed=0, transfer=transfer
    ), locked


def test_copies_are_begun_a_step_ahead(tmp_path: Any) -> None:
    stream = FakeStream()
    batches, locked = batches_of(tmp_path, stream)
    for step in range(4):
        (first, second) = batches.step(step)
        assert first.inputs.device.type == second.targets.device.type == "meta"
        for future in list(batches._ahead.values()):  # while the device would compute this step
            future.result()
        waited = [mark for what, mark in stream.log if what == "waited"]
        copied = [mark for what, mark in stream.log if what == "copied"]
        assert waited == list(range(1, step + 2)), "each step waits for its own copy alone"
        assert max(copied) >= step + 2, "that of the next step is begun"
    batches.close()
    assert locked and all(locked)


def test_what_is_copied_is_what_would_be_read(tmp_path: Any) -> None:
    copied, _ = batches_of(tmp_path, FakeStream(), device="cpu")
    plain = Batches(open_train(tmp_path / "made"), context_length=T, sequences_per_step=S, micro_batch=2, seed=0)
    for step in (0, 1, 5, 2):  # a seek ahead, and back
        moved, expected = copied.step(step), plain.step(step)
        for mine, theirs in zip(moved, expected, strict=True):
            assert torch.equal(mine.inputs, theirs.inputs) and torch.equal(mine.targets, theirs.targets)
            assert (mine.weights, mine.documents, mine.begins) == (theirs.weights, theirs.documents, theirs.begins)
    copied.close()
    plain.close()


def test_a_token_without_a_row_is_refused_before_it_is_copied(tmp_path: Any) -> None:
    def check(batch: MicroBatch) -> None:
        raise UserError("outside the model's vocabulary")

    stream = FakeStream()
    batches, _ = batches_of(tmp_path, stream, check)
    with pytest.raises(UserError, match="outside"):
        batches.step(0)
    batches.close()
    assert stream.log == []
