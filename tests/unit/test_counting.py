"""Counts without building equal the parameters of built modules, and published totals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config.sizes import dimensions
from trainer.models.build import make_model
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.counting import count_flops, count_parameters


def built_total(config: TransformerConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make_model(config).parameters())


@settings(max_examples=60, deadline=None)
@given(
    heads=st.sampled_from([(2, 1), (4, 2), (4, 4), (6, 3)]),
    head_dim=st.sampled_from([4, 8, 16]),
    n_layers=st.integers(1, 4),
    d_ff=st.sampled_from([None, 24, 40]),
    norm=st.sampled_from(["rmsnorm", "layernorm"]),
    mlp=st.sampled_from(["swiglu", "gelu", "gelu_tanh", "relu"]),
    position=st.sampled_from(["rotary", "learned"]),
    bias=st.booleans(),
    tied_embeddings=st.booleans(),
    qk_norm=st.booleans(),
    fused_qkv=st.booleans(),
    vocab_multiple_of=st.sampled_from([1, 64]),
)
def test_counts_equal_built_modules(heads, head_dim, **choices):
    n_heads, n_kv_heads = heads
    config = TransformerConfig(
        d_model=n_heads * head_dim, n_heads=n_heads, n_kv_heads=n_kv_heads, vocab_size=100, context_length=32, **choices
    )
    assert count_parameters(config).total == built_total(config)


def test_gpt2_small_has_its_published_number_of_parameters():
    config = TransformerConfig(
        d_model=768, n_layers=12, n_heads=12, vocab_size=50257, context_length=1024,
        position="learned", norm="layernorm", mlp="gelu", bias=True,
    )  # fmt: skip
    assert count_parameters(config).total == 124_439_808


def test_gpt3_body_and_flops_follow_12_l_d_squared():
    config = TransformerConfig(
        size="175B", vocab_size=50257, context_length=2048, norm="layernorm", mlp="gelu", bias=True
    )
    count = count_parameters(config)
    assert (config.d_model, config.n_layers, config.n_heads) == (12288, 96, 96)
    assert count.body == pytest.approx(12 * 96 * 12288**2, rel=1e-3)
    assert count_flops(config).body == 6 * 12 * 96 * 12288**2


@pytest.mark.parametrize("size", ["10k", "100k", "1M", "10M", "100M", "1B", "7B", "70B", "175B"])
def test_a_size_is_met_within_a_quarter_and_splits_over_two_ranks(size):
    shape = dimensions(size)
    wanted = float(size[:-1]) * {"k": 1e3, "M": 1e6, "B": 1e9}[size[-1]]
    assert shape.body_params == pytest.approx(wanted, rel=0.25)
    assert shape.n_heads % 2 == 0
    assert shape.d_model % shape.n_heads == 0


def test_a_size_outside_the_range_is_refused_with_the_range():
    with pytest.raises(ValueError, match=r"between 3000 and 2T"):
        dimensions("10")
