"""The config.json of a Llama, Qwen3 or GPT-2 of Hugging Face, read strictly, and written."""

from __future__ import annotations

from typing import Any

from trainer.config.base import parse_section
from trainer.contract.errors import UserError
from trainer.models.huggingface import CONFIG
from trainer.models.huggingface_keys import Keys, among, positive, shown, words
from trainer.models.transformer.config import TransformerConfig

# Activations by their names there, ours second. `gelu_new` and `gelu_pytorch_tanh` are the same formula.
GPT2_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
SILU = ("silu", "swish")

HARMLESS_OF = {
    "gpt2": words(
        "n_ctx summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout"
    ),
    "llama": words("pretraining_tp is_llama_config"),  # slices of one product; a note
    "qwen3": words("max_window_layers sliding_window"),  # of no effect without use_sliding_window
}
FIXED_OF: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
    },
    "llama": {"hidden_act": SILU, "attention_bias": (False,), "mlp_bias": (False,), "rope_interleaved": (False,)},
    "qwen3": {
        "hidden_act": SILU,
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "use_sliding_window": (False,),
    },
}


def config_from_huggingface(values: Any) -> TransformerConfig:
    """Return the architecture that a config.json describes.

    Raises `UserError` that names every key whose value our model cannot have, and every key that is not known.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in ("gpt2", "llama", "qwen3"):
        raise UserError(f"{CONFIG}: model_type {shown(kind)} is not known here: convert llama, qwen3 or gpt2")
    keys = Keys(values)
    settings = _gpt2(keys) if kind == "gpt2" else _llama(keys, qwen3=kind == "qwen3")
    keys.finish(HARMLESS_OF[kind], FIXED_OF[kind])
    return read_settings(settings)


def read_settings(settings: dict[str, Any]) -> TransformerConfig:
    """Return the architecture of settings that a config.json stands for. Raises `UserError`."""
    config = parse_section(TransformerConfig, settings, CONFIG)
    if config.norm_eps == config.model_copy(update={"norm_eps": None}).epsilon:
        return config.model_copy(update={"norm_eps": None})  # the default is said by leaving it out
    return config


def _gpt2(keys: Keys) -> dict[str, Any]:
    D = keys.whole("n_embd")
    activation = keys.one_of("activation_function", tuple(GPT2_ACTIVATIONS), "gelu_new")
    return {
        "d_model": D,
        "n_layers": keys.whole("n_layer"),
        "n_heads": keys.whole("n_head"),
        "d_ff": keys.whole("n_inner", 4 * D),
        "vocab_size": keys.whole("vocab_size"),
        "context_length": keys.whole("n_positions"),
        "position": "learned",
        "norm": "layernorm",
        "norm_eps": keys.number("layer_norm_epsilon", 1e-5),
        "bias": True,
        "mlp": GPT2_ACTIVATIONS[activation],
        "tied_embeddings": keys.flag("tie_word_embeddings", True),
    }


def _llama(keys: Keys, *, qwen3: bool) -> dict[str, Any]:
    D, H, L = keys.whole("hidden_size"), keys.whole("num_attention_heads"), keys.whole("num_hidden_layers")
    # A Qwen3 that says nothing has 32 key/value heads, 128 wide; null means as many as query heads.
    kv_heads = 32 if qwen3 and "num_key_value_heads" not in keys.stated else H
    width = keys.whole("head_dim", 128 if qwen3 else max(1, D // H))
    if width * H != D:
        keys.refuse("head_dim", f"is {width}: here num_attention_heads {H} of hidden_size {D} are {D / H:g} wide")
    layers = keys.get("layer_types")
    full = isinstance(layers, list) and len(layers) == L and all(layer == "full_attention" for layer in layers)
    if layers is not None and not (qwen3 and full):
        keys.refuse("layer_types", f"is {shown(layers)}, and must be 'full_attention' for each of {L} layers")
    return {
        "d_model": D,
        "n_layers": L,
        "n_heads": H,
        "n_kv_heads": keys.whole("num_key_value_heads", kv_heads),
        "d_ff": keys.whole("intermediate_size"),
        "vocab_size": keys.whole("vocab_size"),
        "context_length": keys.whole("max_position_embeddings"),
        "rotary_base": _rotary_base(keys),
        "norm_eps": keys.number("rms_norm_eps", 1e-6),
        "qk_norm": qwen3,
        "tied_embeddings": keys.flag("tie_word_embeddings", False),
    }


def _rotary_base(keys: Keys) -> float:
    """Return the base of the rotary wavelengths, which files of different ages state in different places."""
    bases = {keys.number("rope_theta", 10_000.0)} if "rope_theta" in keys.values else set()
    keys.one_of("partial_rotary_factor", (1.0,), 1.0)
    for key in ("rope_parameters", "rope_scaling"):
        rope = keys.get(key)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            keys.refuse(key, f"is {shown(rope)}, and must be a mapping")
            continue
        allowed = {"rope_type": ("default",), "type": ("default",), "partial_rotary_factor": (1.0,)}
        for name, value in rope.items():
            if name == "rope_theta" and positive(value):
                bases.add(float(value))
            elif value is not None and not among(value, allowed.get(name, ())):
                keys.refuse(f"{key}.{name}", f"is {shown(value)}: scaled or partial rotary positions are not supported")
    if len(bases) > 1:
        keys.refuse("rope_theta", f"has several values: {', '.join(f'{base:g}' for base in sorted(bases))}")
    return bases.pop() if bases else 10_000.0


def config_to_huggingface(config: TransformerConfig, layout: str) -> dict[str, Any]:
    """Return the contents of config.json for an architecture that the layout can hold."""
    if layout == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": config.d_model,
            "n_layer": config.n_layers,
            "n_head": config.heads,
            "n_inner": config.ff_width,
            "n_positions": config.context_length,
            "vocab_size": config.vocab_rows,
            "activation_function": next(theirs for theirs, ours in GPT2_ACTIVATIONS.items() if ours == config.mlp),
            "layer_norm_epsilon": config.epsilon,
            "tie_word_embeddings": config.tied_embeddings,
        }
    return {
        "architectures": ["LlamaForCausalLM" if layout == "llama" else "Qwen3ForCausalLM"],
        "model_type": layout,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_rows,
        "max_position_embeddings": config.context_length,
        "rope_theta": config.rotary_base,
        "rms_norm_eps": config.epsilon,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tied_embeddings,
    }
