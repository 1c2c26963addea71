"""Every parameter of every model has one role, and every line of a table of roles has a parameter somewhere."""

from __future__ import annotations

from fnmatch import fnmatchcase
from itertools import product

import pytest
import torch

from trainer.models.build import make_model
from trainer.models.roles import Constant, Normal, linear, role_of
from trainer.models.transformer.config import TransformerConfig

CHOICES = {
    "norm": ("rmsnorm", "layernorm"),
    "mlp": ("swiglu", "gelu"),
    "position": ("rotary", "learned"),
    "bias": (False, True),
    "qk_norm": (False, True),
    "fused_qkv": (False, True),
    "tied_embeddings": (False, True),
}


def models() -> list[TransformerConfig]:
    small = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 61}
    choices = [dict(zip(CHOICES, values, strict=True)) for values in product(*CHOICES.values())]
    return [TransformerConfig.model_validate({**small, **choice}) for choice in choices]


def test_every_parameter_has_a_role_and_every_role_a_parameter() -> None:
    used: set[str] = set()
    for config in models():
        with torch.device("meta"):
            model = make_model(config)
        for name, parameter in model.named_parameters():
            role = role_of(model.roles, name)
            used.add(next(pattern for pattern in model.roles if fnmatchcase(name, pattern)))
            assert not role.parts or sum(role.parts) == parameter.shape[0]
            assert role.fan_in in (None, parameter.shape[-1])
            assert role.decay == (role.group == "matrix")
            assert isinstance(role.initial, Normal) == (parameter.dim() == 2)
            assert not name.endswith("bias") or role.initial == Constant(0.0)
    assert set(model.roles) == used


def test_the_order_of_parameters_lasts() -> None:
    """Optimizer states and gradient norms follow it."""
    with torch.device("meta"):
        names = [name for name, _ in make_model(models()[0]).named_parameters()]
    block = ("attn_norm", "attn.q", "attn.k", "attn.v", "attn.out", "mlp_norm", "mlp.gate_up", "mlp.down")
    fused = [name.replace("attn.q", "attn.qkv") for name in block if name not in ("attn.k", "attn.v")]
    names_of = block if "blocks.0.attn.q.weight" in names else fused
    blocks = [f"blocks.{layer}.{name}.weight" for layer in range(2) for name in names_of]
    assert [n for n in names if "bias" not in n] == ["embed.weight", *blocks, "norm.weight", "head.weight"]


def test_a_parameter_without_a_role_is_named() -> None:
    with pytest.raises(AssertionError, match=r"weight_hh_l0' has no role"):
        role_of(linear("blocks.*.mlp.up", 0.02, 32), "rnn.weight_hh_l0")
