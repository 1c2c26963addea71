"""Parameters, FLOPs, activations and widths of a stack of blocks, from its configuration alone. Free of torch."""

from __future__ import annotations

from trainer.config.parallel import Degrees
from trainer.contract.errors import UserError
from trainer.models.ends import count_ends
from trainer.models.mixers.base import kinds_of
from trainer.models.transformer.activations import activations
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.counting import FlopCount, ParameterCount
from trainer.plan.shape import Shape

__all__ = [
    "activations",
    "check_documents",
    "check_splits",
    "count_flops",
    "count_parameters",
    "fp8_sides",
    "step_shape",
]


def count_parameters(config: TransformerConfig) -> ParameterCount:
    """Count the parameters of a model. The vocabulary must be known."""
    D, F, L = config.d_model, config.ff_width, config.n_layers
    mlp = D * config.up_width + F * D + int(config.bias and F > 0) * (config.up_width + D)
    norms = (L * config.block_norms + config.last_norm) * config.norm_rows * D
    mixing: dict[str, int] = {}
    whole = 0
    for kind in kinds_of(config):
        count, layers = kind.cost.parameters(), len(kind.layers)
        mixing[kind.mixer.name] = mixing.get(kind.mixer.name, 0) + layers * count.own
        norms += layers * count.norms
        whole += layers * count.whole
    ends = count_ends(config)
    position = config.context_length * D if config.position == "learned" else 0
    return ParameterCount(
        embedding=ends.embedding,
        position=position,
        body_parts={**mixing, "mlp": L * mlp, "norms": norms},
        head=ends.head,
        replicated=norms + position + whole,
    )


def count_flops(config: TransformerConfig) -> FlopCount:
    """Count the training FLOPs of one token at the full context length, see `trainer/plan/counting.py`."""
    D, F, L = config.d_model, config.ff_width, config.n_layers
    counted = [(kind.cost.flops(), len(kind.layers)) for kind in kinds_of(config)]
    return FlopCount(
        body=L * 6 * (D * config.up_width + F * D) + sum(layers * flops.matrices for flops, layers in counted),
        attention=sum(layers * flops.context for flops, layers in counted),
        head=count_ends(config).head_flops,
    )


def check_splits(model: TransformerConfig, degrees: Degrees) -> None:
    """Raise `UserError` where mixers or the MLP's width cannot be shared by the tensor and sequence ranks."""
    for kind in kinds_of(model):
        kind.cost.check_splits(degrees)
    if model.ff_width % degrees.tensor:
        raise UserError(
            f"d_ff {model.ff_width} is not a multiple of the tensor degree {degrees.tensor}: change one of them"
        )


def check_documents(model: TransformerConfig) -> None:
    """Raise `UserError` where a mixer would carry something of one document into the next."""
    for kind in kinds_of(model):
        if not kind.cost.respects_documents:
            raise UserError(
                f"the mixer {kind.mixer.name} does not stop at the end of a document: set data.document_mask to false "
                "and data.packing to concatenate, or take another mixer"
            )


def fp8_sides(model: TransformerConfig, tensor: int) -> dict[str, int]:
    """Return the sides of the matrices that a tensor rank multiplies in fp8, by name."""
    sides = {"d_model": model.d_model}
    for kind in kinds_of(model):
        sides |= kind.cost.fp8_sides(tensor)
    return {**sides, f"d_ff / tensor {tensor}": model.ff_width // tensor} if model.ff_width else sides


def step_shape(model: TransformerConfig) -> Shape:
    """Return what the time of a step depends on. The vocabulary must be known."""
    return Shape(
        D=model.d_model,
        F=model.ff_width,
        V=model.vocab_rows,
        T=model.context_length,
        gated=model.mlp == "swiglu",
        norms=model.block_norms,
        mixers=tuple((kind.cost.shape(), len(kind.layers)) for kind in kinds_of(model)),
    )
