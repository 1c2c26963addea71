"""Memory of one rank by part, in bytes.

Model states follow the formulas of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 5), activations are counted
in `trainer/plan/activations.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig
from trainer.plan.activations import activations, head_bytes, logits_bytes
from trainer.plan.counting import count_parameters
from trainer.plan.deepspeed import bucket_elements, live_elements


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, each part at its own peak. They do not all meet: see `total`."""

    parameters: int
    gradients: int  # in the precision of the parameters, as the paper counts them
    widening: int  # what they take more because they are added up in fp32
    optimizer: int  # Adam's two moments, and the fp32 master copy that ZeRO keeps
    activations: int  # kept by the forward pass
    logits: int
    head: int  # gradients of its input and its matrix, fresh: they are added to others only when the logits are gone
    working: int  # what the backward pass of one block holds besides
    tied: int  # a tied embedding's gradient, twice more: as its two uses are added up, the backward pass ends
    buffers: int  # what reducing gradients and gathering parameters hold besides
    accumulates: bool  # gradients of a former micro-batch are there while activations are at their peak

    @property
    def total(self) -> int:
        """The most that exists at a time: when the backward pass begins, inside its first block, or at its end."""
        states = self.parameters + self.optimizer
        begins = self.activations + max(self.logits + self.head, self.working)
        gradients = self.gradients + self.widening
        if self.accumulates:
            begins += gradients
        return states + self.buffers + max(begins, gradients + self.working + self.tied)

    def by_part(self) -> dict[str, int]:
        """Return all parts and the total by name."""
        parts = asdict(self)
        del parts["accumulates"]
        return {**parts, "total": self.total}


def rank_parameters(model: ModelConfig, tensor: int) -> int:
    """Return the parameters that one tensor rank holds: matrices are split, norms and positions are not."""
    count = count_parameters(model)
    return -(-(count.total - count.replicated) // tensor) + count.replicated


def rank_memory(
    model: ModelConfig,
    parallel: ParallelConfig,
    *,
    data_parallel: int,
    micro_batch: int,
    bytes_per_value: int,
    gpu: bool,
    accumulates: bool = True,
) -> Memory:
    """Estimate the memory of one rank. `bytes_per_value` is 4 in fp32 and 2 in bf16.

    `accumulates` says that an optimizer step has several micro-batches, or that gradients have buffers which stay.
    """
    held, stage = rank_parameters(model, parallel.tensor), parallel.zero_stage
    sharded = data_parallel * parallel.sequence
    master = held * 4 if stage >= 1 or bytes_per_value == 2 else 0
    tokens = micro_batch * model.context_length // parallel.sequence
    widest = model.vocab_rows * model.d_model // parallel.tensor
    token = activations(model, parallel, bytes_per_value=bytes_per_value, gpu=gpu)
    return Memory(
        parameters=held * bytes_per_value // (sharded if stage == 3 else 1),
        gradients=held * bytes_per_value // (sharded if stage >= 2 else 1),
        widening=held * (4 - bytes_per_value if stage else 0) // (sharded if stage >= 2 else 1),
        optimizer=(held * 8 + master) // (sharded if stage >= 1 else 1),
        activations=tokens * (token.layers + token.ends),
        logits=logits_bytes(model, parallel, tokens=tokens, gpu=gpu),
        head=head_bytes(model, parallel, tokens=tokens, bytes_per_value=bytes_per_value, gpu=gpu),
        working=tokens * token.working,
        tied=2 * widest * bytes_per_value if model.tied_embeddings else 0,
        buffers=_buffered(model, stage, widest) * bytes_per_value if sharded > 1 else 0,
        accumulates=accumulates,
    )


def _buffered(model: ModelConfig, stage: int, widest: int) -> int:
    """Return the elements that DeepSpeed and its collectives hold besides; `widest` is the embedding's share.

    Stage 0 reduces gradients where they are. Stages 1 and 2 copy a bucket of them, or one gradient at stage 2 that is
    larger. Stage 3 gathers the head and whatever it may keep and fetch ahead, and sends a copy of what it gathers.
    """
    bucket = bucket_elements(model)
    return (0, bucket, max(2 * bucket, widest), 2 * widest + live_elements(model))[stage]
