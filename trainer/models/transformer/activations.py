"""What the forward pass of a stack of blocks keeps for the backward pass, in bytes per token, tensor by tensor.

For GPT-2's block in 16 bits with dropout this is 34 D, as in Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1),
less the scores, which flash attention does not keep. A CPU keeps more: its RMSNorm and dropout are not fused, and the
output of attention is copied. tests/launch/test_activations.py holds the count against what autograd really saves.
A mixer counts its own.
"""

from __future__ import annotations

from trainer.config.parallel import ParallelConfig
from trainer.models.common.kept import Kept
from trainer.models.mixers.base import kinds_of
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.activations import Activations


def activations(model: TransformerConfig, parallel: ParallelConfig, *, bytes_per_value: int, gpu: bool) -> Activations:
    """Return what a token leaves on one rank, and what its backward pass holds besides."""
    kept = Kept(model, parallel, bytes_per_value, gpu)
    D, L, value = model.d_model, model.n_layers, bytes_per_value
    branches = 1 if model.mlp == "none" else 2
    outside = model.block_norms * kept.norm(D) + branches * D * (value + kept.mask)  # norms, what enters, dropouts
    mixers = [(kind.cost.activations(kept), len(kind.layers)) for kind in kinds_of(model)]
    mixing, largest = sum(layers * bytes_ for bytes_, layers in mixers), max(bytes_ for bytes_, _ in mixers)
    mlp = _mlp(kept)
    backward = D * value + 2 * model.ff_width * value // parallel.tensor  # into the block, and inside its MLP
    ends = model.last_norm * kept.norm(D) + D * (value + kept.mask)
    if parallel.recompute == "full":
        return Activations(L * D * value, ends, outside + largest + mlp + backward)
    if parallel.recompute == "selective":
        return Activations(L * (outside + mlp), ends, max(backward, largest + D * value))
    return Activations(L * (outside + mlp) + mixing, ends, backward)


def _mlp(kept: Kept) -> int:
    width = kept.model.ff_width // kept.parallel.tensor  # 0 without an MLP
    return {"swiglu": 4, "relu": 1}.get(kept.model.mlp, 2) * width * kept.value  # relu's output is all that it needs
