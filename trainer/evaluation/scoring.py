"""The loss of each token of a stream, in order: in windows of a chosen stride, or with the state carried over.

Shapes: N tokens of the stream, n of a block, C of a window, B windows side by side, D width of what the head reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.evaluation.stream import Stream
from trainer.models.interface import LanguageModel


@dataclass(frozen=True)
class Block:
    """The next n tokens of a stream."""

    losses: Tensor  # (n) float64, nats
    before: Tensor  # (n) int64, tokens that were read before the input of each
    targets: Tensor  # (n) int64
    hidden: Tensor  # (n, D), what the head read


@dataclass(frozen=True)
class Window:
    """Tokens [begin, end) are read, and [scored, end) are scored: they have been in no window before."""

    begin: int
    scored: int
    end: int


def windows(total: int, context: int, stride: int) -> Iterator[Window]:
    """Yield windows that begin `stride` apart, until all of `total` tokens are scored. The last may be shorter.

    With stride = context each begins with nothing before it; with stride 1 every token reads all that the context
    holds.
    """
    scored = 0
    for begin in range(0, total, stride):
        end = min(begin + context, total)
        yield Window(begin, scored, end)
        if end == total:
            return
        scored = end


def score_windows(model: LanguageModel, stream: Stream, context: int, stride: int, batch: int) -> Iterator[Block]:
    """Yield the losses of all tokens, `batch` windows at a time, where these are of one shape."""
    group: list[Window] = []
    for window in windows(len(stream), context, stride):
        if group and (len(group) == batch or _shape(window) != _shape(group[0])):
            yield _score(model, stream, group)
            group = []
        group.append(window)
    if group:
        yield _score(model, stream, group)


def _shape(window: Window) -> tuple[int, int]:
    return window.end - window.begin, window.end - window.scored


@torch.inference_mode()
def _score(model: LanguageModel, stream: Stream, group: list[Window]) -> Block:
    length, new = _shape(group[0])
    device = next(model.parameters()).device
    inputs = torch.stack([stream.inputs[w.begin : w.end] for w in group]).to(device)
    targets = torch.stack([stream.targets[w.scored : w.end] for w in group])
    documents = None
    if stream.documents is not None:
        documents = torch.stack([stream.documents[w.begin : w.end] for w in group]).to(device)
    with what_the_head_reads(model) as read:
        losses = model(inputs, targets.to(device), documents=documents, last=new)
    before = torch.arange(length - new, length).repeat(len(group))
    return Block(losses.double().flatten().cpu(), before, targets.flatten(), read[0].flatten(0, 1).cpu())


@torch.inference_mode()
def score_carried(model: LanguageModel, stream: Stream, length: int) -> Iterator[Block]:
    """Yield the losses of all tokens, read once from the first to the last, `length` at a time with one state."""
    state, device = model.initial_state(), next(model.parameters()).device
    for begin in range(0, len(stream), length):
        part = slice(begin, begin + length)
        targets = stream.targets[part]
        with what_the_head_reads(model) as read:
            losses = model(stream.inputs[None, part].to(device), targets[None].to(device), state=state)
        before = torch.arange(begin, begin + len(targets))
        yield Block(losses[0].double().cpu(), before, targets, read[0][0].cpu())


@contextmanager
def what_the_head_reads(model: LanguageModel) -> Iterator[list[Tensor]]:
    """Note what is put into the head, (B, T, D), by every call of the model within the context."""
    read: list[Tensor] = []

    def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        read.append(arguments[0])

    handle = model.head.register_forward_pre_hook(note)
    try:
        yield read
    finally:
        handle.remove()
