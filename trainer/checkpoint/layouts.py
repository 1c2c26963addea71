"""Hugging Face layouts of the same parameters: names, shapes and the configuration file of `transformers`.

Two layouts, chosen by the architecture: `llama` (with QK-norm: `qwen3`) for RMSNorm, SwiGLU and rotary positions
without biases, and `gpt2` for LayerNorm, GELU and learned positions with biases. Rotary pairs are (i, i + K/2) in
both, so no row moves. Shapes: D d_model, K head width, H query heads, G key/value heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.config.model import ModelConfig
from trainer.errors import UserError

Tensors = dict[str, Tensor]

_LLAMA_BLOCK = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn.q.weight": "self_attn.q_proj.weight",
    "attn.k.weight": "self_attn.k_proj.weight",
    "attn.v.weight": "self_attn.v_proj.weight",
    "attn.q_norm.weight": "self_attn.q_norm.weight",
    "attn.k_norm.weight": "self_attn.k_norm.weight",
    "attn.out.weight": "self_attn.o_proj.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
}
_LLAMA = {
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_GPT2_BLOCK = {
    "attn_norm": "ln_1",
    "attn.qkv": "attn.c_attn",
    "attn.out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}
_GPT2 = {
    "embed.weight": "transformer.wte.weight",
    "position.weight": "transformer.wpe.weight",
    "norm.weight": "transformer.ln_f.weight",
    "norm.bias": "transformer.ln_f.bias",
    "head.weight": "lm_head.weight",
}

# Our names of the activation of gpt2, and theirs.
GPT2_ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu"}


def layout_of(config: ModelConfig) -> str:
    """Return `llama`, `qwen3` or `gpt2`. Raises `UserError` for an architecture that none of them can hold."""
    kind = (config.norm, config.mlp, config.position, config.bias)
    if kind == ("rmsnorm", "swiglu", "rotary", False):
        return "qwen3" if config.qk_norm else "llama"
    same_heads = config.kv_heads == config.n_heads
    gpt2 = kind in [("layernorm", mlp, "learned", True) for mlp in GPT2_ACTIVATIONS]
    if gpt2 and config.fused_qkv and same_heads and not config.qk_norm:
        return "gpt2"
    raise UserError(
        f"no Hugging Face layout holds norm {config.norm}, mlp {config.mlp}, position {config.position}, "
        f"bias {config.bias}, qk_norm {config.qk_norm}, fused_qkv {config.fused_qkv}: llama needs rmsnorm, swiglu, "
        "rotary, no bias; gpt2 needs layernorm, gelu or gelu_tanh, learned, bias and as many key/value as query heads"
    )


def to_huggingface(tensors: Tensors, config: ModelConfig) -> tuple[Tensors, dict[str, Any]]:
    """Return the parameters under Hugging Face names, and the contents of config.json."""
    layout = layout_of(config)
    if layout == "gpt2":
        renamed = {_gpt2_name(name): (t.t() if _is_conv(name) else t).contiguous() for name, t in tensors.items()}
        return renamed, _gpt2_config(config)
    renamed = {_llama_name(name): t.contiguous() for name, t in _separate(tensors, config).items()}
    return renamed, _llama_config(config, layout)


def from_huggingface(tensors: Tensors, values: dict[str, Any]) -> tuple[Tensors, ModelConfig]:
    """Return the parameters under our names and the architecture, from Hugging Face's tensors and config.json."""
    config = config_from_huggingface(values)
    if layout_of(config) == "gpt2":
        # Files written by early versions lack the prefix, and hold causal masks that are no parameters.
        tensors = {
            name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}": t
            for name, t in tensors.items()
        }
        back = {_gpt2_name(name): name for name in _names(config)}
        found = {back[name]: t for name, t in tensors.items() if name in back}
        ours = {name: (t.t() if _is_conv(name) else t).contiguous() for name, t in found.items()}
    else:
        back = {
            _llama_name(name): name for name in _names(config.model_copy(update={"fused_qkv": False}), separate=True)
        }
        ours = _join({back[name]: t for name, t in tensors.items() if name in back}, config)
    if config.tied_embeddings:
        ours.pop("head.weight", None)
    missing = sorted(set(_names(config)) - set(ours))
    if missing:
        raise UserError(f"the Hugging Face files lack {len(missing)} parameters, such as {missing[0]}")
    return ours, config


def config_from_huggingface(values: dict[str, Any]) -> ModelConfig:
    """Return the architecture that a config.json describes. Raises `UserError` for other model types."""
    kind = values.get("model_type")
    if kind == "gpt2":
        activation = values.get("activation_function", "gelu_new")
        activations = {theirs: ours for ours, theirs in GPT2_ACTIVATIONS.items()}
        if activation not in activations:
            raise UserError(
                f"activation_function {activation!r} is not known here: gpt2 takes {', '.join(activations)}"
            )
        return ModelConfig(
            d_model=values["n_embd"], n_layers=values["n_layer"], n_heads=values["n_head"],
            d_ff=values.get("n_inner") or 4 * values["n_embd"], vocab_size=values["vocab_size"],
            context_length=values["n_positions"], position="learned", norm="layernorm", bias=True,
            mlp=activations[activation],
            tied_embeddings=values.get("tie_word_embeddings", True),
        )  # fmt: skip
    if kind in ("llama", "qwen3"):
        rope = values.get("rope_parameters") or {}
        return ModelConfig(
            d_model=values["hidden_size"], n_layers=values["num_hidden_layers"], n_heads=values["num_attention_heads"],
            n_kv_heads=values.get("num_key_value_heads"), d_ff=values["intermediate_size"],
            vocab_size=values["vocab_size"], context_length=values["max_position_embeddings"],
            rotary_base=values.get("rope_theta") or rope.get("rope_theta", 10_000.0),
            qk_norm=kind == "qwen3", tied_embeddings=values.get("tie_word_embeddings", False),
        )  # fmt: skip
    raise UserError(f"model_type {kind!r} is not known here: convert llama, qwen3 or gpt2")


def _llama_config(config: ModelConfig, layout: str) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM" if layout == "llama" else "Qwen3ForCausalLM"],
        "model_type": layout,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_rows,
        "max_position_embeddings": config.context_length,
        "rope_theta": config.rotary_base,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tied_embeddings,
    }


def _gpt2_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.ff_width,
        "n_positions": config.context_length,
        "vocab_size": config.vocab_rows,
        "activation_function": GPT2_ACTIVATIONS[config.mlp],
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": config.tied_embeddings,
    }


def _llama_name(name: str) -> str:
    if name.startswith("blocks."):
        _, layer, rest = name.split(".", 2)
        return f"model.layers.{layer}.{_LLAMA_BLOCK[rest]}"
    return _LLAMA[name]


def _gpt2_name(name: str) -> str:
    if name.startswith("blocks."):
        _, layer, rest = name.split(".", 2)
        module, _, last = rest.rpartition(".")
        return f"transformer.h.{layer}.{_GPT2_BLOCK[module]}.{last}"
    return _GPT2[name]


def _is_conv(name: str) -> bool:
    """GPT-2's projections are stored as (inputs, outputs)."""
    return name.startswith("blocks.") and name.endswith(".weight") and "norm" not in name


def _separate(tensors: Tensors, config: ModelConfig) -> Tensors:
    """Take fused matrices apart: queries, keys and values; gate and up."""
    K, result = config.head_dim, {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if stem.endswith(".qkv"):
            widths = [config.n_heads * K, config.kv_heads * K, config.kv_heads * K]
            for part, values in zip("qkv", tensor.split(widths), strict=True):
                result[f"{stem.removesuffix('qkv')}{part}.weight"] = values
        elif stem.endswith(".gate_up"):
            gate, up = tensor.chunk(2)
            result[f"{stem.removesuffix('gate_up')}gate.weight"], result[f"{stem.removesuffix('gate_up')}up.weight"] = (
                gate,
                up,
            )
        else:
            result[name] = tensor
    return result


def _join(tensors: Tensors, config: ModelConfig) -> Tensors:
    """Put fused matrices together again."""
    result = dict(tensors)
    for layer in range(config.n_layers):
        block = f"blocks.{layer}"
        fused = {f"{block}.mlp.gate_up.weight": [f"{block}.mlp.gate.weight", f"{block}.mlp.up.weight"]}
        if config.fused_qkv:
            fused[f"{block}.attn.qkv.weight"] = [f"{block}.attn.{part}.weight" for part in "qkv"]
        for name, parts in fused.items():
            if all(part in result for part in parts):
                result[name] = torch.cat([result.pop(part) for part in parts])
    return result


def _names(config: ModelConfig, *, separate: bool = False) -> list[str]:
    """Return the names of all parameters, with fused matrices taken apart if asked to."""
    from trainer.models.build import make_model

    with torch.device("meta"):
        named = dict(make_model(config).named_parameters())
    return list(_separate({name: p.data for name, p in named.items()}, config) if separate else named)
