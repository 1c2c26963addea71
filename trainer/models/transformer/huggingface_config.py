"""The config.json of a Hugging Face model, read strictly: every key is mapped, known to change nothing, or refused.

A key that were passed over could change what the model computes. Where a key is absent, the value is the one that
`transformers` takes (src/transformers/models/{gpt2,llama,qwen3}/configuration_*.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from trainer.config.base import parse_section
from trainer.contract.errors import UserError
from trainer.models.huggingface import CONFIG
from trainer.models.transformer.config import TransformerConfig


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Activations by their names there, ours second. `gelu_new` and `gelu_pytorch_tanh` are the same formula.
GPT2_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
SILU = ("silu", "swish")

# What does not change the logits: training settings, generation, bookkeeping, and outputs that nobody asks for here.
HARMLESS = _words(
    """
    model_type architectures _name_or_path transformers_version torch_dtype dtype use_cache initializer_range
    bos_token_id eos_token_id pad_token_id unk_token_id sep_token_id decoder_start_token_id
    attention_dropout resid_pdrop embd_pdrop attn_pdrop gradient_checkpointing
    output_attentions output_hidden_states return_dict return_dict_in_generate output_scores torchscript
    use_bfloat16 tf_legacy_loss chunk_size_feed_forward is_decoder tie_encoder_decoder
    id2label label2id num_labels problem_type finetuning_task task_specific_params prefix tokenizer_class
    max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences forced_bos_token_id forced_eos_token_id
    remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens
    attn_implementation _attn_implementation _attn_implementation_autoset transformers.js_config unsloth_version
    """
)
HARMLESS_OF = {
    "gpt2": _words(
        "n_ctx summary_type summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout"
    ),
    "llama": _words("pretraining_tp is_llama_config"),  # slices of one product; a note
    "qwen3": _words("max_window_layers sliding_window"),  # of no effect without use_sliding_window
}
# What changes the logits, and the only values that our model has.
FIXED: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
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


class _Keys:
    """The values of a config.json, and what is wrong with those that were asked for. null is as good as absent."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.stated = frozenset(values)
        self.values = {key: value for key, value in values.items() if value is not None}
        self.asked: set[str] = set()
        self.problems: list[str] = []

    def whole(self, key: str, default: int | None = None) -> int:
        """Return a whole number above 0."""
        return int(
            self._checked(key, default, "a whole number above 0", lambda v: type(v) is int and 0 < v < 2**31) or 1
        )

    def number(self, key: str, default: float) -> float:
        """Return a finite number above 0."""
        return float(self._checked(key, default, "a number above 0", _positive) or 1.0)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        return bool(self._checked(key, default, "true or false", lambda v: type(v) is bool))

    def one_of(self, key: str, allowed: tuple[Any, ...], default: Any) -> Any:
        """Return one of some values."""
        names = " or ".join(map(repr, allowed)) or "nothing"
        return self._checked(key, default, f"{names} (others are not supported)", lambda v: _among(v, allowed))

    def get(self, key: str) -> Any:
        """Return a value as it stands there, or None."""
        self.asked.add(key)
        return self.values.get(key)

    def refuse(self, key: str, problem: str) -> None:
        """Note what is wrong with a key."""
        self.problems.append(f"{key} {problem}")

    def others(self, harmless: frozenset[str]) -> list[str]:
        """Return the keys that nobody asked for."""
        return sorted(set(self.values) - self.asked - harmless)

    def _checked(self, key: str, default: Any, wanted: str, fits: Callable[[Any], bool]) -> Any:
        value = self.get(key)
        if value is None:
            if default is None:
                self.refuse(key, "is missing")
            return default
        if not fits(value):
            self.refuse(key, f"is {_shown(value)}, and must be {wanted}")
            return default
        return value


def config_from_huggingface(values: Any) -> TransformerConfig:
    """Return the architecture that a config.json describes.

    Raises `UserError` that names every key whose value our model cannot have, and every key that is not known.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in ("gpt2", "llama", "qwen3"):
        raise UserError(f"{CONFIG}: model_type {_shown(kind)} is not known here: convert llama, qwen3 or gpt2")
    keys = _Keys(values)
    settings = _gpt2(keys) if kind == "gpt2" else _llama(keys, qwen3=kind == "qwen3")
    for key, allowed in (FIXED | FIXED_OF[kind]).items():
        keys.one_of(key, allowed, allowed[0] if allowed else False)
    for key in keys.others(HARMLESS | HARMLESS_OF[kind]):
        keys.refuse(key, f"is {_shown(keys.values[key])}, and not known here: it could change what the model computes")
    for key, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):  # harmless keys are no exception: nobody builds this
            keys.refuse(key, f"is {value}, which is no number")
    if keys.problems:
        raise UserError(f"{CONFIG} of a {kind} cannot be converted exactly: {'; '.join(keys.problems)}")
    config = parse_section(TransformerConfig, settings, CONFIG)
    if config.norm_eps == config.model_copy(update={"norm_eps": None}).epsilon:
        return config.model_copy(update={"norm_eps": None})  # the default is said by leaving it out
    return config


def _gpt2(keys: _Keys) -> dict[str, Any]:
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


def _llama(keys: _Keys, *, qwen3: bool) -> dict[str, Any]:
    D, H, L = keys.whole("hidden_size"), keys.whole("num_attention_heads"), keys.whole("num_hidden_layers")
    # A Qwen3 that says nothing has 32 key/value heads, 128 wide; null means as many as query heads.
    kv_heads = 32 if qwen3 and "num_key_value_heads" not in keys.stated else H
    width = keys.whole("head_dim", 128 if qwen3 else max(1, D // H))
    if width * H != D:
        keys.refuse("head_dim", f"is {width}: here num_attention_heads {H} of hidden_size {D} are {D / H:g} wide")
    layers = keys.get("layer_types")
    full = isinstance(layers, list) and len(layers) == L and all(layer == "full_attention" for layer in layers)
    if layers is not None and not (qwen3 and full):
        keys.refuse("layer_types", f"is {_shown(layers)}, and must be 'full_attention' for each of {L} layers")
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


def _rotary_base(keys: _Keys) -> float:
    """Return the base of the rotary wavelengths, which files of different ages state in different places."""
    bases = {keys.number("rope_theta", 10_000.0)} if "rope_theta" in keys.values else set()
    keys.one_of("partial_rotary_factor", (1.0,), 1.0)
    for key in ("rope_parameters", "rope_scaling"):
        rope = keys.get(key)
        if rope is None:
            continue
        if not isinstance(rope, dict):
            keys.refuse(key, f"is {_shown(rope)}, and must be a mapping")
            continue
        allowed = {"rope_type": ("default",), "type": ("default",), "partial_rotary_factor": (1.0,)}
        for name, value in rope.items():
            if name == "rope_theta" and _positive(value):
                bases.add(float(value))
            elif value is not None and not _among(value, allowed.get(name, ())):
                keys.refuse(
                    f"{key}.{name}", f"is {_shown(value)}: scaled or partial rotary positions are not supported"
                )
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


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < (2**63 if type(value) is int else 1e300)


def _among(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether a value is one of some, where 1 is not true and 0 is not false."""
    return any(value == a and (type(value) is bool) == (type(a) is bool) for a in allowed)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
