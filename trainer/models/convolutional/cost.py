"""Parameters, FLOPs and memory of residual blocks of convolutions. The vocabulary must be known."""

from __future__ import annotations

from trainer.config.parallel import ParallelConfig
from trainer.models.convolutional.config import ConvolutionalConfig
from trainer.models.ends import count_ends
from trainer.models.unsplit import check_documents, check_splits
from trainer.plan.activations import Activations
from trainer.plan.counting import FlopCount, ParameterCount
from trainer.plan.shape import MixerShape, Product, Shape

__all__ = [
    "activations",
    "check_documents",
    "check_splits",
    "count_flops",
    "count_parameters",
    "fp8_sides",
    "step_shape",
]


def count_parameters(config: ConvolutionalConfig) -> ParameterCount:
    """Count the parameters of a model."""
    ends = count_ends(config)
    vectors = 1 + int(config.weight_norm)  # a bias of each output, and its length
    convolutions = sum(
        product.outputs * (product.inputs + vectors) for block in _products(config) for product in block
    )  # fmt: skip
    body = {"convolutions": convolutions}
    if projections := sum(outputs * (inputs + 1) for inputs, outputs in _projections(config)):
        body["projections"] = projections
    if config.head_width != config.last_width:
        body["projections"] = body.get("projections", 0) + config.head_width * config.last_width
    return ParameterCount(ends.embedding, 0, body, ends.head, ends.embedding + sum(body.values()) + ends.head)


def count_flops(config: ConvolutionalConfig) -> FlopCount:
    """Count the training FLOPs of one token."""
    matrices = sum(product.outputs * product.inputs for block in _products(config) for product in block)
    matrices += sum(inputs * outputs for inputs, outputs in _projections(config))
    if config.head_width != config.last_width:
        matrices += config.head_width * config.last_width
    return FlopCount(6 * matrices, 0, count_ends(config).head_flops)


def activations(
    model: ConvolutionalConfig, parallel: ParallelConfig, *, bytes_per_value: int, gpu: bool
) -> Activations:
    """Return what a token leaves on a rank: the windows of each convolution, and what its unit keeps."""
    values, widest = 0, 0
    for block in model.residual_blocks:
        own = 0
        for conv in block:
            own += conv.kernel * conv.inputs if conv.kernel > 1 else conv.inputs
            own += (2 if model.unit == "glu" else 1) * conv.outputs
            own += conv.outputs * bool(model.dropout)
        if block[0].inputs != block[-1].outputs:
            own += block[0].inputs
        own += block[-1].outputs if model.unit == "relu" else 0  # of the sum
        values, widest = values + own, max(widest, own)
    ends = (model.d_model + model.head_width) * bytes_per_value
    if parallel.recompute == "none":
        return Activations(values * bytes_per_value, ends, widest * bytes_per_value)
    inputs = sum(block[0].inputs for block in model.residual_blocks) * bytes_per_value
    return Activations(inputs, ends, 2 * widest * bytes_per_value)


def fp8_sides(model: ConvolutionalConfig, tensor: int) -> dict[str, int]:
    """Return the sides of matrices that are multiplied in fp8: of projections between blocks."""
    return {f"width {width}": width for pair in _projections(model)[1:] for width in pair}


def step_shape(model: ConvolutionalConfig) -> Shape:
    """Return what the time of a step depends on."""
    mixers = []
    for block, products in zip(model.residual_blocks, _products(model), strict=True):
        values = sum((1 + conv.kernel) * conv.inputs + 4 * conv.outputs for conv in block)
        mixers.append((MixerShape(tuple(products), values=values, fused_values=values), 1))
    return Shape(D=model.d_model, F=0, V=model.vocab_rows, T=model.context_length, gated=False, mixers=tuple(mixers))


def _products(config: ConvolutionalConfig) -> list[list[Product]]:
    """Return the matrices of each block's convolutions; gates are further outputs."""
    gated = 2 if config.unit == "glu" else 1
    return [
        [Product(gated * conv.outputs, conv.kernel * conv.inputs) for conv in block]
        for block in config.residual_blocks
    ]  # fmt: skip


def _projections(config: ConvolutionalConfig) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of projections with biases: of the embedding, and past blocks that change the width."""
    ends = [(config.d_model, config.first_width)]
    ends += [(block[0].inputs, block[-1].outputs) for block in config.residual_blocks]
    return [(inputs, outputs) for inputs, outputs in ends if inputs != outputs]
