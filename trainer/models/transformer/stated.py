"""What a section of the transformer states, before it is read: its mixers, and the shape of a size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.config.choice import Choice, parse_choice
from trainer.config.sizes import Dimensions, fitted, usual_ff
from trainer.models.mixers.attention.cost import AttentionOptions
from trainer.models.mixers.registry import find_mixer
from trainer.models.registry import cost_of

if TYPE_CHECKING:
    from trainer.models.transformer.config import TransformerConfig

ATTENTION = Choice("attention", AttentionOptions())
INSIDE_MIXERS = ("rotary", "alibi", "relative")  # positions that a mixer applies; the others are added to the embedding


def parse_mixer(value: Any) -> Choice:
    """Return a mixer and its options, given `NAME` or `{NAME: {option: value}}`. Raises ValueError."""
    return parse_choice(value, lambda name: find_mixer(name).cost_class.Options)


def fitted_shape(section: type[TransformerConfig], values: dict[str, Any], like: Dimensions) -> Dimensions:
    """Return the shape whose body is as large as that of attention's shape."""
    mlp, free = values.get("mlp", "swiglu"), values.get("d_ff") is None
    may_widen = free and mlp != "none"
    return fitted(
        like,
        lambda shape: body_of(section, values, shape),
        body_of(section, with_attention(values), like),
        (lambda d_model: usual_ff(d_model, mlp)) if may_widen else None,
    )


def stated_mixers(values: dict[str, Any]) -> list[Choice]:
    """Return the mixers that a section names, before it is read. Raises ValueError."""
    if values.get("pattern") is None:
        return [parse_mixer(values.get("mixer", ATTENTION))]
    stated = values["pattern"]
    if not isinstance(stated, list | tuple) or not stated:
        raise ValueError("pattern is a list of mixers, such as [gated_conv, attention]")
    return [parse_mixer(value) for value in stated]


def shortest(values: dict[str, Any]) -> dict[str, Any]:
    """Say a pattern that repeats in the shortest way, so that one model has one name."""
    pattern, layers = values.get("pattern"), values.get("n_layers")
    if pattern is None or not isinstance(layers, int) or len(pattern) > layers:
        return values
    mixers = [parse_mixer(value) for value in pattern]
    period = next(p for p in range(1, len(mixers) + 1) if mixers == (mixers[:p] * len(mixers))[: len(mixers)])
    if period > 1:
        return {**values, "pattern": mixers[:period]}
    return {**{key: value for key, value in values.items() if key != "pattern"}, "mixer": mixers[0]}


def with_attention(values: dict[str, Any]) -> dict[str, Any]:
    """Return the section of the transformer that a model is compared with: the same block around attention."""
    other = {key: value for key, value in values.items() if key not in ("mixer", "pattern")}
    return {key: value for key, value in other.items() if key != "position" or value not in (*INSIDE_MIXERS, "none")}


def body_of(section: type[TransformerConfig], values: dict[str, Any], shape: Dimensions) -> int | None:
    """Return the parameters of the body of a shape; None where a mixer cannot have it."""
    plain = {key: value for key, value in values.items() if key not in ("size", "vocab_size", "n_heads")}
    shaped = {**plain, "d_model": shape.d_model, "n_layers": shape.n_layers, "vocab_size": 1}
    if shape.d_ff is not None:
        shaped["d_ff"] = shape.d_ff
    if any("n_heads" in find_mixer(mixer.name).cost_class.settings for mixer in stated_mixers(values)):
        shaped["n_heads"] = values.get("n_heads", shape.n_heads)
    try:
        config = section.model_validate(shaped)
    except ValueError:
        return None
    body: int = cost_of(config.family).count_parameters(config).body
    return body
