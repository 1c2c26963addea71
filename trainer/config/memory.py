"""Memory of one rank by part, in bytes: the formulas of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 5)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from trainer.config.counting import count_parameters
from trainer.config.model import ModelConfig
from trainer.config.parallel import ParallelConfig


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank at the peak of a step."""

    parameters: int
    gradients: int
    optimizer: int  # Adam's two moments, and the fp32 master copy that ZeRO keeps
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.logits

    def by_part(self) -> dict[str, int]:
        """Return all parts and the total by name."""
        return {**asdict(self), "total": self.total}


def rank_parameters(model: ModelConfig, tensor: int) -> int:
    """Return the parameters that one tensor rank holds: matrices are split, norms and positions are not."""
    count = count_parameters(model)
    replicated = count.norms + count.position
    return -(-(count.total - replicated) // tensor) + replicated


def rank_memory(
    model: ModelConfig, parallel: ParallelConfig, *, data_parallel: int, micro_batch: int, bytes_per_value: int
) -> Memory:
    """Estimate the memory of one rank. `bytes_per_value` is 4 in fp32 and 2 in bf16."""
    held, stage = rank_parameters(model, parallel.tensor), parallel.zero_stage
    sharded = data_parallel * parallel.sequence
    master = held * 4 if stage >= 1 or bytes_per_value == 2 else 0
    tokens = micro_batch * model.context_length // parallel.sequence
    return Memory(
        parameters=held * bytes_per_value // (sharded if stage == 3 else 1),
        gradients=held * bytes_per_value // (sharded if stage >= 2 else 1),
        optimizer=(held * 8 + master) // (sharded if stage >= 1 else 1),
        activations=tokens * bytes_per_value * values_per_token(model, parallel),
        logits=2 * tokens * model.vocab_rows * 4 // parallel.tensor,
    )


def values_per_token(model: ModelConfig, parallel: ParallelConfig) -> int:
    """Return how many values one token leaves for the backward pass, over all layers of one rank.

    Counted on the block: inputs of the two norms and of the two sums are whole on every tensor rank (5 d); queries,
    keys, values, their rotated copies and the mixed values are split, and so are the hidden values of the MLP.
    """
    D, F, t = model.d_model, model.ff_width, parallel.tensor
    kv_width = model.kv_heads * model.head_dim
    attention = 3 * D + 3 * kv_width
    mlp = (4 if model.mlp == "swiglu" else 2) * F
    if parallel.recompute == "full":
        return model.n_layers * D + 5 * D + (attention + mlp) // t
    if parallel.recompute == "selective":
        attention = D
    return model.n_layers * (5 * D + (attention + mlp) // t)
