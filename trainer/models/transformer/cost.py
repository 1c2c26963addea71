"""Parameters, FLOPs, activations and widths of a transformer, from its configuration alone. Free of torch."""

from __future__ import annotations

from trainer.config.parallel import Degrees
from trainer.contract.errors import UserError
from trainer.models.transformer.activations import activations
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.counting import FlopCount, ParameterCount

__all__ = ["activations", "check_splits", "count_flops", "count_parameters", "fp8_sides"]


def count_parameters(config: TransformerConfig) -> ParameterCount:
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
    position = config.context_length * D if config.position == "learned" else 0
    return ParameterCount(
        embedding=table,
        position=position,
        body_parts={"attention": L * attention, "mlp": L * mlp, "norms": norms},
        head=0 if config.tied_embeddings else table,
        replicated=norms + position,
    )


def count_flops(config: TransformerConfig) -> FlopCount:
    """Count the training FLOPs of one token at the full context length, see `trainer/plan/counting.py`."""
    D, F, L, T = config.d_model, config.ff_width, config.n_layers, config.context_length
    q_width, kv_width = config.n_heads * config.head_dim, config.kv_heads * config.head_dim
    up_width = 2 * F if config.mlp == "swiglu" else F
    matrices = D * (q_width + 2 * kv_width) + q_width * D + D * up_width + F * D
    return FlopCount(
        body=6 * L * matrices,
        attention=3 * L * 2 * (T + 1) * q_width,
        head=6 * config.vocab_rows * D,
    )


def check_splits(model: TransformerConfig, degrees: Degrees) -> None:
    """Raise `UserError` where heads or the MLP's width cannot be shared by the tensor and sequence ranks."""
    t, s = degrees.tensor, degrees.sequence
    if t > model.kv_heads and model.n_heads % t == 0:
        raise UserError(
            f"tensor degree {t} is greater than the {model.kv_heads} key/value heads: "
            f"use a tensor degree that divides {model.kv_heads}, or more key/value heads (model.n_kv_heads)"
        )
    for name, count in {"n_heads": model.n_heads, "n_kv_heads": model.kv_heads, "d_ff": model.ff_width}.items():
        if count % t:
            raise UserError(f"{name} {count} is not a multiple of the tensor degree {t}: change one of them")
    for name, count in (("n_heads", model.n_heads), ("n_kv_heads", model.kv_heads)):
        if (count // t) % s:
            raise UserError(
                f"{name} {count} / tensor {t} = {count // t} heads on a rank, not a multiple of the sequence degree "
                f"{s}: sequence parallelism hands each rank whole heads, so lower a degree or add heads"
            )


def fp8_sides(model: TransformerConfig, tensor: int) -> dict[str, int]:
    """Return the sides of the matrices that a tensor rank multiplies in fp8, by name."""
    return {
        "d_model": model.d_model,
        f"n_heads x head_dim / tensor {tensor}": model.n_heads * model.head_dim // tensor,
        f"n_kv_heads x head_dim / tensor {tensor}": model.kv_heads * model.head_dim // tensor,
        f"d_ff / tensor {tensor}": model.ff_width // tensor,
    }
