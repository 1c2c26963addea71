"""The time of one optimizer step, from first principles and four stated efficiencies.

Matrix products run at a share of the peak, everything else at a share of the memory's bandwidth, collectives at a
share of their link, by the ring algorithm: an all-reduce moves 2 (n-1)/n of its bytes through each rank, a
reduce-scatter or all-gather (n-1)/n. What overlaps is stated where it is computed. The shares were chosen once, on
A100, against Narayanan et al. 2021 (arXiv 2104.04473, table 1), where the model's worst error is below 20 %.

Letters: T tokens of a sequence, D width, F width of the MLP, H heads, L layers, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from launch.planner.gpus import Gpu

MATRIX_SHARE = 0.70  # of peak FLOP/s, large bf16 products
MEMORY_SHARE = 0.80  # of memory bandwidth, elementwise kernels
NODE_SHARE = 0.75  # of NVLink or PCIe, large collectives
NETWORK_SHARE = 0.80  # of InfiniBand or RoCE, large collectives
LAUNCH = 60e-6  # seconds to launch the kernels of one layer's pass: small layers take no less
LATENCY = 10e-6  # seconds for one collective, whatever its size
HIDDEN_SHARE = 0.5  # of the backward pass can hide data-parallel traffic where the runtime overlaps it


@dataclass(frozen=True)
class Shape:
    """What the time depends on in a model."""

    D: int
    F: int
    L: int
    H: int
    kv_heads: int
    head_dim: int
    V: int
    T: int
    gated: bool

    @property
    def layer_matrix(self) -> int:
        """Parameters of one layer's matrices."""
        q, kv = self.H * self.head_dim, self.kv_heads * self.head_dim
        return self.D * (2 * q + 2 * kv) + (3 if self.gated else 2) * self.D * self.F


@dataclass(frozen=True)
class Way:
    """How a model is spread and run."""

    data: int
    tensor: int = 1
    sequence: int = 1
    pipeline: int = 1
    chunks: int = 1  # of layers on each pipeline stage, interleaved
    zero: int = 1
    micro_batch: int = 1
    accumulation: int = 1
    recompute: str = "none"
    fused_attention: bool = True  # scores never reach memory
    overlap: bool = False  # data-parallel traffic hides behind the backward pass
    ranks_per_node: int = 8
    bytes_per_value: int = 2

    @property
    def world(self) -> int:
        return self.data * self.tensor * self.sequence * self.pipeline


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step by part. They add up."""

    matrices: float
    elementwise: float
    tensor: float  # all-reduces inside tensor groups
    sequence: float  # all-to-alls of sequence parallelism
    pipeline: float  # bubble and hand-over
    data: float  # gradients and parameters over data ranks, after overlap
    optimizer: float

    @property
    def total(self) -> float:
        return float(sum(asdict(self).values()))

    def by_part(self) -> dict[str, float]:
        """Return all parts and the total."""
        return {**asdict(self), "total": self.total}


def step_time(shape: Shape, way: Way, gpu: Gpu, parameters: int) -> StepTime:
    """Return the time of one optimizer step. `parameters` are all distinct ones of the model."""
    tokens = way.micro_batch * shape.T / way.sequence  # of one rank in one pass
    layers = shape.L / way.pipeline
    passes = 3 + (1 if way.recompute == "full" else 0)  # forward, twice that backward, forward again
    n = way.accumulation
    matrices = n * _matrices(shape, way, gpu, tokens, layers, passes)
    elementwise = n * _elementwise(shape, way, gpu, tokens, layers, passes)
    tensor = n * _tensor(shape, way, gpu, tokens, layers)
    sequence = n * _sequence(shape, way, gpu, tokens, layers)
    busy = matrices + elementwise + tensor + sequence
    pipeline = busy / n * (way.pipeline - 1) / way.chunks + n * _hand_over(shape, way, gpu, tokens)
    held = parameters / (way.tensor * way.pipeline)
    data = _data(way, gpu, held)
    hidden = HIDDEN_SHARE * (matrices + elementwise) * 2 / passes / n if way.overlap else 0.0
    return StepTime(
        matrices, elementwise, tensor, sequence, pipeline, max(data - hidden, 0.0), _optimizer(way, gpu, held)
    )


def _matrices(s: Shape, w: Way, gpu: Gpu, tokens: float, layers: float, passes: int) -> float:
    keys = s.T / 2 if w.fused_attention else s.T  # a fused kernel skips the masked half
    layer = 2 * tokens * (s.layer_matrix + 2 * keys * s.H * s.head_dim) / w.tensor
    head = 2 * tokens * s.V * s.D / w.tensor / w.pipeline
    extra = 2 * tokens * 2 * keys * s.H * s.head_dim / w.tensor if w.recompute == "selective" else 0.0
    rate = MATRIX_SHARE * gpu.flops * (0.5 if w.bytes_per_value == 4 else 1.0)
    one = max(layer / rate, LAUNCH)
    return layers * (passes * one + extra / rate) + 3 * head / rate


def _elementwise(s: Shape, w: Way, gpu: Gpu, tokens: float, layers: float, passes: int) -> float:
    """Bytes that norms, sums, activations and (unfused) softmax move through memory."""
    whole = 12 * s.D  # two norms and two sums, read and written
    split = (6 if s.gated else 4) * s.F + (0 if w.fused_attention else 6 * s.H * s.T)
    layer = tokens * (whole + split / w.tensor) * w.bytes_per_value
    logits = tokens * 4 * 4 * s.V / w.tensor / w.pipeline  # fp32 softmax and its gradient
    return (layers * passes * layer + logits) / (MEMORY_SHARE * gpu.bandwidth)


def _tensor(s: Shape, w: Way, gpu: Gpu, tokens: float, layers: float) -> float:
    """Two all-reduces of the activations forward, two backward, and two more where the forward pass runs again."""
    if w.tensor == 1:
        return 0.0
    times = 6 if w.recompute == "full" else 4
    return layers * times * all_reduce(tokens * s.D * w.bytes_per_value, w.tensor, _link(w, gpu, w.tensor))


def _sequence(s: Shape, w: Way, gpu: Gpu, tokens: float, layers: float) -> float:
    """Ulysses (Jacobs et al. 2023, arXiv 2309.14509): all-to-all of q, k, v and of the output, forward and backward."""
    if w.sequence == 1:
        return 0.0
    times = 3 if w.recompute == "full" else 2
    moved = tokens * (2 * s.H + 2 * s.kv_heads) * s.head_dim * w.bytes_per_value / w.tensor
    link = _link(w, gpu, w.tensor * w.sequence)
    return layers * times * (moved * (w.sequence - 1) / w.sequence / link + 4 * LATENCY)


def _hand_over(s: Shape, w: Way, gpu: Gpu, tokens: float) -> float:
    if w.pipeline == 1:
        return 0.0
    # Scattered over the tensor ranks of a stage, which send side by side.
    moved = 2 * w.chunks * tokens * s.D * w.bytes_per_value / w.tensor
    return moved / (NETWORK_SHARE * gpu.link_network) + 2 * w.chunks * LATENCY


def _data(w: Way, gpu: Gpu, held: float) -> float:
    """Traffic of a step by ZeRO's stage (Rajbhandari et al. 2020, section 7): 2 P up to stage 2, 3 P at stage 3."""
    ranks = w.data * w.sequence
    if ranks == 1:
        return 0.0
    link = _link(w, gpu, w.tensor * ranks)
    once = held * w.bytes_per_value * (ranks - 1) / ranks / link
    if w.zero <= 1:
        return 2 * once
    if w.zero == 2:
        return (1 + w.accumulation) * once  # gradients are reduced after each pass, since no rank keeps them whole
    return 3 * w.accumulation * once


def _optimizer(w: Way, gpu: Gpu, held: float) -> float:
    """Adam reads and writes two moments, the master copy and the gradient: 30 bytes for each parameter."""
    own = held / (w.data * w.sequence) if w.zero else held
    return own * 30 / (MEMORY_SHARE * gpu.bandwidth)


def all_reduce(size: float, ranks: int, link: float) -> float:
    """Return seconds of a ring all-reduce of `size` bytes."""
    return 2 * size * (ranks - 1) / ranks / link + LATENCY


def _link(w: Way, gpu: Gpu, span: int) -> float:
    """Return the rate of one rank's link in a group that spans so many neighbouring ranks."""
    return NODE_SHARE * gpu.link_node if span <= w.ranks_per_node else NETWORK_SHARE * gpu.link_network
