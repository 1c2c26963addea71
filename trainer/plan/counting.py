"""Exact parameters and FLOPs of a model, from its configuration alone. Nothing is built; a family counts its own parts.

Conventions of N differ between papers and move exponents (Porian et al. 2024, arXiv 2406.19146), so the parts
are kept apart: Kaplan's N is `body`, Porian's counts the head too, Chinchilla's is `total`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.config.model import ModelConfig
from trainer.models.registry import cost_of


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters by part."""

    embedding: int
    position: int
    body_parts: Mapping[str, int]  # what blocks and norms consist of, by the family's own names
    head: int  # 0 when tied to the embedding
    replicated: int  # of all these, what every tensor rank holds whole

    @property
    def body(self) -> int:
        """Everything but embeddings, positions and head: N of Kaplan et al. 2020, section 2.1."""
        return sum(self.body_parts.values())

    @property
    def total(self) -> int:
        """Distinct parameters."""
        return self.embedding + self.position + self.body + self.head

    def by_part(self) -> dict[str, int]:
        """Return all parts and sums by name."""
        ends = {"embedding": self.embedding, "position": self.position}
        return {**ends, **self.body_parts, "head": self.head, "body": self.body, "total": self.total}


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one token of training: forward and backward, the backward pass counted as twice the forward."""

    body: int  # matrices of the blocks
    attention: int  # scores and weighted sums; each token sees (T + 1) / 2 keys on average
    head: int  # logits, whether the matrix is tied or not

    @property
    def total(self) -> int:
        """FLOPs of everything that is counted."""
        return self.body + self.attention + self.head


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Count the parameters of a model whose vocabulary is known."""
    count: ParameterCount = cost_of(config.family).count_parameters(config)
    return count


def count_flops(config: ModelConfig) -> FlopCount:
    """Count the training FLOPs of one token at the full context length.

    A multiply-add is two FLOPs, and the backward pass costs two forward passes, so a matrix with P parameters
    costs 6 P (Kaplan et al. 2020, section 2.1). The causal mask halves the attention that is counted; norms,
    activations and softmax are left out.
    """
    count: FlopCount = cost_of(config.family).count_flops(config)
    return count
