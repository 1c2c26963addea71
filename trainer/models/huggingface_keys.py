"""The keys of a config.json, read strictly: every key is mapped, known to change nothing, or refused.

A key that were passed over could change what the model computes. Where a key is absent, the value is the one that
`transformers` takes (src/transformers/models/*/configuration_*.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from trainer.contract.errors import UserError
from trainer.models.huggingface import CONFIG


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# What does not change the logits: training settings, generation, bookkeeping, and outputs that nobody asks for here.
HARMLESS = words(
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
# What changes the logits, and the only values that our model has.
FIXED: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
}


class Keys:
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
        return float(self._checked(key, default, "a number above 0", positive) or 1.0)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        return bool(self._checked(key, default, "true or false", lambda v: type(v) is bool))

    def one_of(self, key: str, allowed: tuple[Any, ...], default: Any) -> Any:
        """Return one of some values."""
        names = " or ".join(map(repr, allowed)) or "nothing"
        return self._checked(key, default, f"{names} (others are not supported)", lambda v: among(v, allowed))

    def get(self, key: str) -> Any:
        """Return a value as it stands there, or None."""
        self.asked.add(key)
        return self.values.get(key)

    def refuse(self, key: str, problem: str) -> None:
        """Note what is wrong with a key."""
        self.problems.append(f"{key} {problem}")

    def finish(self, harmless: frozenset[str], fixed: dict[str, tuple[Any, ...]]) -> None:
        """Raise `UserError` with all that is wrong, and with the keys that nobody asked for and that are not harmless.

        `fixed` has the only values that our model has, the first of them taken where a key is absent.
        """
        for key, allowed in (FIXED | fixed).items():
            self.one_of(key, allowed, allowed[0] if allowed else False)
        for key in sorted(set(self.values) - self.asked - HARMLESS - harmless):
            value = shown(self.values[key])
            self.refuse(key, f"is {value}, and not known here: it could change what the model computes")
        for key, value in self.values.items():
            if isinstance(value, float) and not math.isfinite(value):  # harmless keys too: nobody builds this
                self.refuse(key, f"is {value}, which is no number")
        if self.problems:
            kind = self.values.get("model_type")
            raise UserError(f"{CONFIG} of a {kind} cannot be converted exactly: {'; '.join(self.problems)}")

    def _checked(self, key: str, default: Any, wanted: str, fits: Callable[[Any], bool]) -> Any:
        value = self.get(key)
        if value is None:
            if default is None:
                self.refuse(key, "is missing")
            return default
        if not fits(value):
            self.refuse(key, f"is {shown(value)}, and must be {wanted}")
            return default
        return value


def positive(value: Any) -> bool:
    """Whether a value is a finite number above 0."""
    return type(value) in (int, float) and 0 < value < (2**63 if type(value) is int else 1e300)


def among(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether a value is one of some, where 1 is not true and 0 is not false."""
    return any(value == a and (type(value) is bool) == (type(a) is bool) for a in allowed)


def shown(value: Any) -> str:
    """Return a value for a message."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
