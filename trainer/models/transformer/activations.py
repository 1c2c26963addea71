"""What a transformer's forward pass keeps for the backward pass, in bytes per token, counted tensor by tensor.

For GPT-2's block in 16 bits with dropout this is 34 D, as in Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1),
less the scores, which flash attention does not keep. A CPU keeps more: its RMSNorm and dropout are not fused, and the
output of attention is copied. tests/launch/test_activations.py holds the count against what autograd really saves.

Letters: D width, F width of the MLP, Q and KV widths of queries and of keys or values, H and G their heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.parallel import ParallelConfig
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.activations import Activations

STATISTIC = 4  # bytes: means, deviations and logarithms of sums are float32 everywhere


@dataclass(frozen=True)
class _Shape:
    model: TransformerConfig
    parallel: ParallelConfig
    value: int  # bytes of one
    gpu: bool

    @property
    def mask(self) -> int:
        """Bytes of one element of a dropout mask."""
        return 0 if self.model.dropout == 0 else 1 if self.gpu else self.value

    def norm(self, width: int, groups: int = 1) -> int:
        """Input and statistics of a norm over `groups` parts of `width`; its output is counted where it is used."""
        if self.model.norm == "layernorm":
            return groups * (width * self.value + 2 * STATISTIC)
        copies = 1 if self.gpu else 2  # without a fused kernel the scaled input is kept beside the input
        return groups * (copies * width * self.value + STATISTIC)


def activations(model: TransformerConfig, parallel: ParallelConfig, *, bytes_per_value: int, gpu: bool) -> Activations:
    """Return what a token leaves on one rank, and what its backward pass holds besides."""
    shape = _Shape(model, parallel, bytes_per_value, gpu)
    D, L, value = model.d_model, model.n_layers, bytes_per_value
    outside = 2 * shape.norm(D) + 2 * D * (value + shape.mask)  # both norms, what they give, both dropouts
    attention, mlp = _attention(shape), _mlp(shape)
    backward = D * value + 2 * model.ff_width * value // parallel.tensor  # into the block, and inside its MLP
    ends = shape.norm(D) + D * (value + shape.mask)
    if parallel.recompute == "full":
        return Activations(L * D * value, ends, outside + attention + mlp + backward)
    if parallel.recompute == "selective":
        return Activations(L * (outside + mlp), ends, max(backward, attention + D * value))
    return Activations(L * (outside + attention + mlp), ends, backward)


def _attention(shape: _Shape) -> int:
    model, t, value = shape.model, shape.parallel.tensor, shape.value
    H, G, K = model.n_heads // t, model.kv_heads // t, model.head_dim
    Q, KV = H * K, G * K
    rotary, exchanged = model.position == "rotary", shape.parallel.sequence > 1
    made_anew = rotary or model.qk_norm or exchanged  # queries and keys are no views of the projection
    statistics = 0
    if model.dropout and not shape.gpu:  # the plain kernel: scaled queries and keys, values, and the scores three times
        kept = 3 * Q + 3 * H * model.context_length
        projection = 0
    else:
        statistics = H * STATISTIC
        kept = Q + KV + Q  # queries, keys, output
        projection = KV  # values
        if model.fused_qkv and not exchanged:  # a view of part of a matrix keeps all of it
            projection, kept = Q + 2 * KV, kept if made_anew else Q
    copied = exchanged or (made_anew and not shape.gpu) or (model.dropout > 0 and not shape.gpu)
    kept += Q if copied else 0
    norms = 0
    if model.qk_norm:
        whole = projection >= Q + 2 * KV  # then the input of both norms is kept already
        norms = shape.norm(K, H) + shape.norm(K, G) - (Q + KV) * value * whole
    return (kept + projection) * value + norms + statistics


def _mlp(shape: _Shape) -> int:
    width = shape.model.ff_width // shape.parallel.tensor
    return (4 if shape.model.mlp == "swiglu" else 2) * width * shape.value
