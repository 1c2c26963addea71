"""Hugging Face layouts of the same parameters: names and shapes. `huggingface_config.py` has their configuration file.

Two layouts, chosen by the architecture: `llama` (with QK-norm: `qwen3`) for RMSNorm, SwiGLU and rotary positions
without biases, and `gpt2` for LayerNorm, GELU and learned positions with biases. Rotary pairs are (i, i + K/2) in
both, so no row moves. Shapes: D d_model, K head width, H query heads, G key/value heads.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from trainer.contract.errors import UserError
from trainer.models.huggingface_tensors import HEAD, Tensors, check_layers, check_tensors, without_tied_head
from trainer.models.transformer.config import TransformerConfig
from trainer.models.transformer.huggingface_config import (
    GPT2_ACTIVATIONS,
    config_from_huggingface,
    config_to_huggingface,
)
from trainer.models.transformer.stated import ATTENTION

MODEL_TYPES = ("llama", "qwen3", "gpt2")

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

_CAUSAL_MASKS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")  # buffers that old files hold
_WAVELENGTHS = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")


def layout_of(config: TransformerConfig) -> str:
    """Return `llama`, `qwen3` or `gpt2`. Raises `UserError` for an architecture that none of them can hold."""
    if set(config.mixers) != {ATTENTION}:
        raise UserError(f"llama, qwen3 and gpt2 have no mixer {config.kind}")
    for key in ("norm_placement", "residual_scale", "logit_softcap", "transfer"):
        if (value := getattr(config, key)) != type(config).model_fields[key].default:
            raise UserError(f"llama, qwen3 and gpt2 have no {key} {value}")
    kind = (config.norm, config.mlp, config.position, config.bias)
    if kind == ("rmsnorm", "swiglu", "rotary", False):
        return "qwen3" if config.qk_norm else "llama"
    same_heads = config.kv_heads == config.heads
    gpt2 = kind in [("layernorm", mlp, "learned", True) for mlp in GPT2_ACTIVATIONS.values()]
    if gpt2 and config.fused_qkv and same_heads and not config.qk_norm:
        return "gpt2"
    raise UserError(
        f"the model has norm {config.norm}, mlp {config.mlp}, position {config.position}, "
        f"bias {config.bias}, qk_norm {config.qk_norm}, fused_qkv {config.fused_qkv}: llama needs rmsnorm, swiglu, "
        "rotary, no bias; gpt2 needs layernorm, gelu or gelu_tanh, learned, bias and as many key/value as query heads"
    )


def to_huggingface(tensors: Tensors, config: TransformerConfig) -> tuple[Tensors, dict[str, Any]]:
    """Return the parameters under Hugging Face names, and the contents of config.json."""
    layout = layout_of(config)
    if layout == "gpt2":
        renamed = {_gpt2_name(name): (t.t() if _is_conv(name) else t).contiguous() for name, t in tensors.items()}
        return renamed, config_to_huggingface(config, layout)
    renamed = {_llama_name(name): t.contiguous() for name, t in _separate(tensors, config).items()}
    return renamed, config_to_huggingface(config, layout)


def from_huggingface(tensors: Tensors, values: object) -> tuple[Tensors, TransformerConfig]:
    """Return the parameters under our names and the architecture, from Hugging Face's tensors and config.json.

    Raises `UserError` that names the keys, the tensors or the shapes that keep the model from being taken exactly.
    """
    config = config_from_huggingface(values)
    layout = layout_of(config)
    tensors = _without_buffers(tensors, layout)
    if config.tied_embeddings and HEAD in tensors:
        tensors = without_tied_head(tensors, "transformer.wte.weight" if layout == "gpt2" else _LLAMA["embed.weight"])
    check_layers(tensors, config.n_layers, "transformer.h." if layout == "gpt2" else "model.layers.")
    check_tensors(tensors, _their_shapes(config, layout))
    back = {theirs: ours for ours, theirs in _their_names(config, layout).items()}
    found = {back[name]: t for name, t in tensors.items()}
    if layout == "gpt2":
        return {name: (t.t() if _is_conv(name) else t).contiguous() for name, t in found.items()}, config
    return _join(found, config), config


def _without_buffers(tensors: Tensors, layout: str) -> Tensors:
    """Leave out what is no parameter, and give names of early GPT-2 files, which lack it, their prefix."""
    if layout == "gpt2":
        prefixed = ("transformer.", "lm_head.")
        tensors = {n if n.startswith(prefixed) else f"transformer.{n}": t for n, t in tensors.items()}
    buffers = _CAUSAL_MASKS if layout == "gpt2" else _WAVELENGTHS
    return {name: t for name, t in tensors.items() if not buffers.fullmatch(name)}


def _their_names(config: TransformerConfig, layout: str) -> dict[str, str]:
    """Return the name there of each of our parameters, fused ones taken apart."""
    if layout == "gpt2":
        blocks = [f"{name}.{last}" for name in _GPT2_BLOCK for last in ("weight", "bias")]
        top, renamed = _GPT2, _gpt2_name
    else:
        blocks = [
            name for name in _LLAMA_BLOCK if config.qk_norm or not name.endswith(("q_norm.weight", "k_norm.weight"))
        ]
        top, renamed = _LLAMA, _llama_name
    names = [name for name in top if name != "head.weight" or not config.tied_embeddings]
    names += [f"blocks.{layer}.{name}" for layer in range(config.n_layers) for name in blocks]
    return {name: renamed(name) for name in names}


def _their_shapes(config: TransformerConfig, layout: str) -> dict[str, tuple[int, ...]]:
    """Return the shape there of each parameter."""
    D, K, F, V = config.d_model, config.head_dim, config.ff_width, config.vocab_rows
    H, G = config.heads, config.kv_heads
    shapes: dict[str, tuple[int, ...]] = {"embed": (V, D), "head": (V, D), "position": (config.context_length, D)}
    if layout == "gpt2":  # inputs first
        shapes |= {"attn.qkv": (D, 3 * D), "attn.out": (D, D), "mlp.up": (D, F), "mlp.down": (F, D)}
    else:
        shapes |= {"attn.q": (H * K, D), "attn.k": (G * K, D), "attn.v": (G * K, D), "attn.out": (D, H * K)}
        shapes |= {"mlp.gate": (F, D), "mlp.up": (F, D), "mlp.down": (D, F), "attn.q_norm": (K,), "attn.k_norm": (K,)}

    def shape(name: str) -> tuple[int, ...]:
        module, _, last = name.rpartition(".")
        whole = shapes.get(module.split(".", 2)[2] if module.startswith("blocks.") else module, (D,))
        return whole[-1:] if last == "bias" else whole

    return {theirs: shape(ours) for ours, theirs in _their_names(config, layout).items()}


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


def _separate(tensors: Tensors, config: TransformerConfig) -> Tensors:
    """Take fused matrices apart: queries, keys and values; gate and up."""
    K, result = config.head_dim, {}
    for name, tensor in tensors.items():
        stem = name.removesuffix(".weight")
        if stem.endswith(".qkv"):
            widths = [config.heads * K, config.kv_heads * K, config.kv_heads * K]
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


def _join(tensors: Tensors, config: TransformerConfig) -> Tensors:
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
