"""Parameters, FLOPs and memory of stacked recurrent layers. Letters: I width of a layer's input, H its hidden width."""

from __future__ import annotations

from trainer.config.parallel import ParallelConfig
from trainer.models.ends import count_ends
from trainer.models.recurrent.config import RecurrentConfig
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


def count_parameters(config: RecurrentConfig) -> ParameterCount:
    """Count the parameters of a model. The vocabulary must be known."""
    ends = count_ends(config)
    matrices = sum(product.outputs * product.inputs for products in _products(config) for product in products)
    biases = sum((4 if config.cell == "lstm" else 3) * H for H in config.hidden)
    body: dict[str, int] = {config.cell: matrices + biases}
    if projection := _projection(config):
        body["projection"] = projection
    return ParameterCount(ends.embedding, 0, body, ends.head, ends.embedding + sum(body.values()) + ends.head)


def count_flops(config: RecurrentConfig) -> FlopCount:
    """Count the training FLOPs of one token."""
    matrices = sum(product.outputs * product.inputs for products in _products(config) for product in products)
    return FlopCount(6 * (matrices + _projection(config)), 0, count_ends(config).head_flops)


def activations(model: RecurrentConfig, parallel: ParallelConfig, *, bytes_per_value: int, gpu: bool) -> Activations:
    """Return what a token leaves on a rank.

    LSTM: see `trainer/models/mixers/lstm/cost.py`. QRNN: the window, values, two gates, and sums.
    """
    per_layer = []
    for layer, (I, H) in enumerate(model.layers):  # noqa: E741
        if model.cell == "lstm":
            widths = (6.0 if gpu else 16.25 + 14 / model.context_length) * H + I
        else:
            exact = 0 if bytes_per_value == 4 else 4 / bytes_per_value
            widths = model.kernel(layer) * I + (4 + 2 * exact) * H
        per_layer.append(round((widths + H * bool(model.hidden_dropout)) * bytes_per_value))
    ends = (model.d_model + model.head_width) * bytes_per_value
    widest = 8 * max(model.hidden) * bytes_per_value
    if parallel.recompute == "none":
        return Activations(sum(per_layer), ends, widest)
    inputs = sum(I for I, _ in model.layers) * bytes_per_value  # noqa: E741
    return Activations(inputs, ends, max(per_layer) + widest)


def fp8_sides(model: RecurrentConfig, tensor: int) -> dict[str, int]:
    """Return the sides of matrices that are multiplied in fp8: none is."""
    return {}


def step_shape(model: RecurrentConfig) -> Shape:
    """Return what the time of a step depends on. The vocabulary must be known."""
    mixers = []
    for (I, H), products in zip(model.layers, _products(model), strict=True):  # noqa: E741
        if model.cell == "lstm":
            shape = MixerShape(products, values=14 * H + 2 * I, fused_values=12 * H + I, serial_kernels=3)
        else:
            shape = MixerShape(products, values=20 * H + 2 * I, fused_values=12 * H + I)
        mixers.append((shape, 1))
    return Shape(
        D=model.d_model, F=0, V=model.vocab_rows, T=model.context_length, gated=False, mixers=tuple(mixers)
    )  # fmt: skip


def _products(config: RecurrentConfig) -> list[tuple[Product, ...]]:
    """Return the matrices of each layer."""
    if config.cell == "lstm":
        return [(Product(4 * H, I), Product(4 * H, H)) for I, H in config.layers]  # noqa: E741
    return [(Product(3 * H, config.kernel(layer) * I),) for layer, (I, H) in enumerate(config.layers)]  # noqa: E741


def _projection(config: RecurrentConfig) -> int:
    """Return the parameters of the matrix from the last layer to the head; 0 where the head reads the layer."""
    last = config.hidden[-1]
    return 0 if config.head_width == last else config.head_width * last
