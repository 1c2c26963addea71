"""Exact parameters and FLOPs of a model, from its configuration alone. Nothing is built.

Conventions of N differ between papers and move exponents (Porian et al. 2024, arXiv 2406.19146), so the parts
are kept apart: Kaplan's N is `body`, Porian's counts the head too, Chinchilla's is `total`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from trainer.config.model import ModelConfig


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters by part."""

    embedding: int
    position: int
    attention: int
    mlp: int
    norms: int
    head: int  # 0 when tied to the embedding

    @property
    def body(self) -> int:
        """Everything but embeddings, positions and head: N of Kaplan et al. 2020, section 2.1."""
        return self.attention + self.mlp + self.norms

    @property
    def total(self) -> int:
        """Distinct parameters."""
        return self.embedding + self.position + self.body + self.head

    def by_part(self) -> dict[str, int]:
        """Return all parts and sums by name."""
        return {**asdict(self), "body": self.body, "total": self.total}


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Count the parameters of a transformer. The vocabulary must be known."""
    D, F, L = config.d_model, config.ff_width, config.n_layers
    q_width, kv_width = config.n_heads * config.head_dim, config.kv_heads * config.head_dim
    bias = int(config.bias)
    attention = D * (q_width + 2 * kv_width) + q_width * D + bias * (q_width + 2 * kv_width + D)
    up_width = 2 * F if config.mlp == "swiglu" else F
    mlp = D * up_width + F * D + bias * (up_width + D)
    norm_rows = 2 if config.norm == "layernorm" and config.bias else 1
    norms = L * 2 * norm_rows * D + norm_rows * D
    if config.qk_norm:
        norms += L * 2 * norm_rows * config.head_dim
    table = config.vocab_rows * D
    return ParameterCount(
        embedding=table,
        position=config.context_length * D if config.position == "learned" else 0,
        attention=L * attention,
        mlp=L * mlp,
        norms=norms,
        head=0 if config.tied_embeddings else table,
    )


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one token of training: forward and backward, the backward pass counted as twice the forward."""

    body: int  # matrices of attention and MLP
    attention: int  # scores and weighted sums; each token sees (T + 1) / 2 keys on average
    head: int  # logits, whether the matrix is tied or not

    @property
    def total(self) -> int:
        return self.body + self.attention + self.head


def count_flops(config: ModelConfig) -> FlopCount:
    """Count the training FLOPs of one token at the full context length.

    A multiply-add is two FLOPs, and the backward pass costs two forward passes, so a matrix with P parameters
    costs 6 P (Kaplan et al. 2020, section 2.1). The causal mask halves the attention that is counted; norms,
    activations and softmax are left out.
    """
    D, F, L, T = config.d_model, config.ff_width, config.n_layers, config.context_length
    q_width, kv_width = config.n_heads * config.head_dim, config.kv_heads * config.head_dim
    up_width = 2 * F if config.mlp == "swiglu" else F
    matrices = D * (q_width + 2 * kv_width) + q_width * D + D * up_width + F * D
    return FlopCount(
        body=6 * L * matrices,
        attention=3 * L * 2 * (T + 1) * q_width,
        head=6 * config.vocab_rows * D,
    )
