"""Batches on their way to a device: copied from page-locked memory, beside what the device computes meanwhile.

The reader's background thread begins the copy of a step as soon as it has read it, one step or more before it is asked
for. Whoever asks for the step has the device wait for the copy, not the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from trainer.data.read.batches import MicroBatch


class CopyStream(Protocol):
    """A queue of a device's work beside the one that computes."""

    def inside(self) -> AbstractContextManager[None]:
        """Queue there what is launched within."""
        ...

    def mark(self) -> Any:
        """Return the place in the queue behind what was launched so far."""
        ...

    def wait(self, mark: Any, tensors: Sequence[Tensor]) -> None:
        """Have what is computed from now on wait until the queue has come to the mark; it reads these tensors."""
        ...


class CudaStream:
    """A stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Queue on the stream."""
        with torch.cuda.stream(self._stream):
            yield

    def mark(self) -> torch.cuda.Event:
        """Return an event of the stream."""
        event = torch.cuda.Event()
        event.record(self._stream)
        return event

    def wait(self, mark: torch.cuda.Event, tensors: Sequence[Tensor]) -> None:
        """Have the current stream wait; the allocator keeps the tensors until it is done with them."""
        current = torch.cuda.current_stream(self._stream.device)
        current.wait_event(mark)
        for tensor in tensors:
            tensor.record_stream(current)


@dataclass(frozen=True)
class PendingCopies:
    """The micro-batches of a step whose copies were begun."""

    batches: list[MicroBatch]
    mark: Any
    sources: list[MicroBatch]  # page-locked: kept until the copies are waited for


class Transfer:
    """Copies the batches of one rank to its device. `check` is asked of each while the host still has its tokens."""

    def __init__(
        self,
        device: torch.device,
        check: Callable[[MicroBatch], None] = lambda batch: None,
        *,
        stream: CopyStream | None = None,
        pin: Callable[[MicroBatch], MicroBatch] | None = None,
    ) -> None:
        self.device, self._check = device, check
        self._stream: CopyStream = stream or CudaStream(device)
        self._pin = pin or pinned

    def begin(self, batches: Sequence[MicroBatch]) -> PendingCopies:
        """Begin to copy. `begins` stays where it is: the host reads it."""
        for batch in batches:
            self._check(batch)
        with self._stream.inside():  # which names the device too: another thread's is the first of the machine
            sources = [self._pin(batch) for batch in batches]
            moved = [mapped(batch, lambda t: t.to(self.device, non_blocking=True)) for batch in sources]
        return PendingCopies(moved, self._stream.mark(), sources)

    def arrived(self, pending: PendingCopies) -> list[MicroBatch]:
        """Return the batches, to be used by what is launched from now on."""
        self._stream.wait(pending.mark, [tensor for batch in pending.batches for tensor in tensors(batch)])
        return pending.batches


def tensors(batch: MicroBatch) -> list[Tensor]:
    """Return what of a batch lies on the device."""
    found = (batch.inputs, batch.targets, batch.weights, batch.documents)
    return [tensor for tensor in found if tensor is not None]


def mapped(batch: MicroBatch, change: Callable[[Tensor], Tensor]) -> MicroBatch:
    """Return a batch with what lies on the device changed."""
    return type(batch)(
        change(batch.inputs),
        change(batch.targets),
        None if batch.weights is None else change(batch.weights),
        None if batch.documents is None else change(batch.documents),
        batch.begins,
    )


def pinned(batch: MicroBatch) -> MicroBatch:
    """Return the batch in page-locked memory, from which a GPU copies while it computes."""
    return mapped(batch, lambda tensor: tensor.contiguous().pin_memory())
