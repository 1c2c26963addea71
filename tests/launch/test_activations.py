"""The planner's count of activations against what autograd really keeps, byte for byte, on a CPU."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from trainer.config.parallel import ParallelConfig
from trainer.engine.recompute import recompute_blocks
from trainer.models.build import build_model
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.activations import activations
from trainer.plan.memory import rank_memory

B, T, V = 2, 64, 64


def model(layers: int, **changes: object) -> TransformerConfig:
    values = {"d_model": 32, "n_layers": layers, "n_heads": 4, "vocab_size": V, "context_length": T, **changes}
    return TransformerConfig.model_validate(values)


def kept(config: TransformerConfig, recompute: str) -> int:
    """Return the bytes of all distinct storages that the forward pass keeps, parameters left out."""
    built = build_model(config, 0)
    recompute_blocks(built, recompute)  # type: ignore[arg-type]
    own = {parameter.untyped_storage().data_ptr() for parameter in built.parameters()}
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.randint(V, (B, T))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        built(tokens, tokens).mean()
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mlp": "gelu"},
        {"norm": "layernorm"},
        {"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True},
        {"n_kv_heads": 2},
        {"fused_qkv": False},
        {"position": "learned", "fused_qkv": False},
        {"qk_norm": True, "n_kv_heads": 2},
        {"qk_norm": True, "fused_qkv": False},
        {"dropout": 0.1},
        {"position": "sinusoidal"},
        {"position": "alibi"},
        {"position": "none", "fused_qkv": False},
        {"norm_placement": "post"},
        {"norm_placement": "both", "norm": "layernorm"},
        {"norm_placement": "none", "residual_scale": 0.5},
        {"mlp": "none"},
    ],
    ids=str,
)
def test_a_block_keeps_what_is_counted(changes: dict, recompute: str) -> None:
    """Two models that differ by one block, so that what every model keeps once drops out."""
    two, three = (kept(model(layers, **changes), recompute) for layers in (2, 3))
    parallel = ParallelConfig(recompute=recompute)  # type: ignore[arg-type]
    planned = activations(model(1, **changes), parallel, bytes_per_value=4, gpu=False)
    random_states = (5056 if recompute != "none" else 0) * (changes.get("dropout") is not None)
    assert abs((three - two) - planned.layers * B * T) <= random_states


def test_the_ends_are_counted() -> None:
    """Besides the blocks: the last norm and the head, and the probabilities of all words."""
    counted = activations(model(2), ParallelConfig(), bytes_per_value=4, gpu=False)
    rest = kept(model(2), "none") - (counted.layers + counted.ends + 4 * V) * B * T
    angles, indices = 2 * T * 4 * 4, 3 * 8 * B * T
    assert 0 <= rest <= angles + indices


def test_gpt2_keeps_34_values_of_its_width() -> None:
    """Korthikanti et al. 2022: 34 s b h in 16 bits with dropout. Flash attention keeps one sum a head, no scores."""
    gpt2 = model(1, norm="layernorm", mlp="gelu", position="learned", dropout=0.1)
    counted = activations(gpt2, ParallelConfig(), bytes_per_value=2, gpu=True)
    statistics = 2 * 2 * 4 + gpt2.n_heads * 4
    assert counted.layers - statistics == 34 * gpt2.d_model


def test_tensor_ranks_share_what_lies_inside_attention_and_mlp() -> None:
    """Korthikanti et al. 2022, equation 2: 10 + 24 / t."""
    gpt2 = model(1, norm="layernorm", mlp="gelu", position="learned", dropout=0.1)
    counted = activations(gpt2, ParallelConfig(tensor=2), bytes_per_value=2, gpu=True)
    statistics = 2 * 2 * 4 + gpt2.n_heads // 2 * 4
    assert counted.layers - statistics == (10 + 24 / 2) * gpt2.d_model


@pytest.mark.parametrize("accumulates", [False, True])
def test_the_peak_of_a_backward_pass_is_what_is_planned(accumulates: bool) -> None:
    """Beyond parameters: what lives when the head's backward pass ends, to a few kilobytes of indices and angles."""
    config = model(2, vocab_size=1024)
    built, tokens = build_model(config, 0), torch.randint(V, (B, T))
    if accumulates:  # the gradients of a former micro-batch are there
        built(tokens, tokens).sum().backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        built(tokens, tokens).sum().backward()
    parallel = ParallelConfig(zero_stage=0)
    planned = rank_memory(config, parallel, data_parallel=1, micro_batch=B, bytes_per_value=4, gpu=False)
    beyond = planned.activations + planned.logits + planned.head
    assert 0 <= most_allocated(recording) - beyond <= 0.01 * beyond


def most_allocated(recording: profile) -> int:
    """Return the most bytes of tensors that lived at a time while it was recorded."""
    events = recording.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(itertools.accumulate(number for _, number in changes))
