"""What a rank's forward pass keeps for the backward pass, in bytes: a family counts its blocks, the head is common."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.models.ends import count_ends
from trainer.models.registry import cost_of
from trainer.plan.logits import chunk_of_logits, chunked


@dataclass(frozen=True)
class Activations:
    """Bytes per token on one rank."""

    layers: int  # kept by all blocks
    ends: int  # kept by the embedding, the last norm and the head
    working: int  # what the backward pass of one block holds besides: gradients, and what it computes again


def activations(model: ModelConfig, parallel: ParallelConfig, *, bytes_per_value: int, gpu: bool) -> Activations:
    """Return what a token leaves on one rank, and what its backward pass holds besides."""
    found: Activations = cost_of(model.family).activations(model, parallel, bytes_per_value=bytes_per_value, gpu=gpu)
    return found


def logits_bytes(model: ModelConfig, parallel: ParallelConfig, *, tokens: int, gpu: bool) -> int:
    """Return the bytes of all float32 logits, probabilities and their gradients that exist at a time."""
    number = tokens * count_ends(model).logits // parallel.tensor
    caps = 0 if model.logit_softcap is None else 1  # its gradient needs the capped logits
    if parallel.tensor > 1:  # probabilities and their gradient
        return (2 + caps) * number * 4
    if chunked(number, width=model.head_width, gpu=gpu):
        return 3 * chunk_of_logits(gpu=gpu) * 4
    return ((3 if gpu else 1) + caps) * number * 4  # on a CPU one matrix becomes the other in place


def head_bytes(model: ModelConfig, parallel: ParallelConfig, *, tokens: int, bytes_per_value: int, gpu: bool) -> int:
    """Return the bytes of the gradients of the head's input and of its matrix, which exist beside the logits."""
    rows = model.vocab_rows // parallel.tensor
    summed = parallel.tensor == 1 and chunked(tokens * rows, width=model.head_width, gpu=gpu)
    wide = 4 if summed else bytes_per_value  # chunks are summed in float32
    return tokens * model.head_width * bytes_per_value + rows * model.head_width * wide
