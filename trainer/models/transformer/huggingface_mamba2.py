"""The Hugging Face layout `mamba2`: blocks of the mixer alone, whose parts are in one matrix and one convolution there.

Rows of its `in_proj` are z, x, B, C and dt; those of its convolution x, B and C. Shapes: D d_model, E inner width,
H heads, N state, k kernel width.
"""

from __future__ import annotations

from typing import Any

import torch

from trainer.contract.errors import UserError
from trainer.models.huggingface_keys import Keys, among, shown, words
from trainer.models.huggingface_tensors import HEAD, Tensors, check_layers, check_tensors, without_tied_head
from trainer.models.mixers.mamba2.cost import Mamba2Options
from trainer.models.transformer.config import TransformerConfig
from trainer.models.transformer.huggingface_config import read_settings

MODEL_TYPES = ("mamba2",)
# Chunks of any size give the same sums; residual sums are float32 where the model is; `transformers` applies the gate
# before the norm, whatever the file says; the rest is for initial values.
HARMLESS = words(
    """
    chunk_size residual_in_fp32 norm_before_gate time_step_min time_step_max time_step_floor time_step_rank
    """
)
FIXED: dict[str, tuple[Any, ...]] = {
    "use_conv_bias": (True,),
    "hidden_act": ("silu", "swish"),
    "rms_norm": (True,),
    "rescale_prenorm_residual": (False,),  # for initial values, but `transformers` rescales those of a file too
}
NEEDED = {
    "mlp": "none", "norm": "rmsnorm", "position": "none", "norm_placement": "pre", "residual_scale": 1.0,
    "transfer": None,
}  # fmt: skip
INFINITE = (float("inf"), {"__float__": "Infinity"})  # as files of different ages write it

_TOP = {"embed.weight": "backbone.embeddings.weight", "norm.weight": "backbone.norm_f.weight", "head.weight": HEAD}
_BLOCK = {  # what is there under another name alone
    "mamba2_norm.weight": "norm.weight",
    "mamba2.dt_bias": "mixer.dt_bias",
    "mamba2.A_log": "mixer.A_log",
    "mamba2.skip": "mixer.D",
    "mamba2.scale": "mixer.norm.weight",
    "mamba2.out.weight": "mixer.out_proj.weight",
    "mamba2.out.bias": "mixer.out_proj.bias",
}
_JOINED = {  # ours, in the order of their rows there
    "mixer.in_proj.weight": ("mamba2.into.weight", "mamba2.bc.weight", "mamba2.dt.weight"),
    "mixer.in_proj.bias": ("mamba2.into.bias", "mamba2.bc.bias", "mamba2.dt.bias"),
    "mixer.conv1d.weight": ("mamba2.conv_x", "mamba2.conv_bc"),
    "mixer.conv1d.bias": ("mamba2.conv_x_bias", "mamba2.conv_bc_bias"),
}
_CONVOLUTION = "mixer.conv1d.weight"  # (channels, 1, k) there


def layout_of(config: TransformerConfig) -> str:
    """Return `mamba2`. Raises `UserError` for an architecture that it cannot hold."""
    if {mixer.name for mixer in config.mixers} != {"mamba2"} or len(set(config.mixers)) > 1:
        raise UserError(f"mamba2 has no mixer {config.kind}")
    wrong = [f"{key} {value}" for key in NEEDED if (value := getattr(config, key)) != NEEDED[key]]
    if _options(config).norm_groups != 1:
        wrong.append(f"norm_groups {_options(config).norm_groups or config.heads}")
    if config.logit_softcap is not None:
        wrong.append(f"logit_softcap {config.logit_softcap:g}")
    if wrong:
        raise UserError(
            f"the model has {', '.join(wrong)}: mamba2 needs mlp none, rmsnorm before the mixer, position none, "
            "norm_groups 1 and no scale or cap"
        )
    return "mamba2"


def to_huggingface(tensors: Tensors, config: TransformerConfig) -> tuple[Tensors, dict[str, Any]]:
    """Return the parameters under Hugging Face names, and the contents of config.json."""
    renamed = {theirs: tensors[ours] for ours, theirs in _TOP.items() if ours in tensors}
    for layer in range(config.n_layers):
        ours, theirs = f"blocks.{layer}", f"backbone.layers.{layer}"
        for name, other in _BLOCK.items():
            if f"{ours}.{name}" in tensors:
                renamed[f"{theirs}.{other}"] = tensors[f"{ours}.{name}"]
        for other, parts in _JOINED.items():
            if f"{ours}.{parts[0]}" in tensors:
                joined = torch.cat([tensors[f"{ours}.{part}"] for part in parts])
                renamed[f"{theirs}.{other}"] = joined[:, None] if other == _CONVOLUTION else joined
    return {name: t.contiguous() for name, t in renamed.items()}, config_to_huggingface(config)


def from_huggingface(tensors: Tensors, values: object) -> tuple[Tensors, TransformerConfig]:
    """Return the parameters under our names and the architecture, from Hugging Face's tensors and config.json.

    Raises `UserError` that names the keys, the tensors or the shapes that keep the model from being taken exactly.
    """
    config = config_from_huggingface(values)
    tensors = {name.replace("backbone.embedding.", "backbone.embeddings."): t for name, t in tensors.items()}
    if config.tied_embeddings and HEAD in tensors:
        tensors = without_tied_head(tensors, _TOP["embed.weight"])
    check_layers(tensors, config.n_layers, "backbone.layers.")
    check_tensors(tensors, _their_shapes(config))
    found = {ours: tensors[theirs] for ours, theirs in _TOP.items() if theirs in tensors}
    rows = _rows(config)
    for layer in range(config.n_layers):
        ours, theirs = f"blocks.{layer}", f"backbone.layers.{layer}"
        found |= {f"{ours}.{name}": tensors[f"{theirs}.{other}"] for name, other in _BLOCK.items()
                  if f"{theirs}.{other}" in tensors}  # fmt: skip
        for other, parts in _JOINED.items():
            if (joined := tensors.get(f"{theirs}.{other}")) is not None:
                taken = (joined[:, 0] if other == _CONVOLUTION else joined).split([rows[part] for part in parts])
                found |= {f"{ours}.{part}": values for part, values in zip(parts, taken, strict=True)}
    return {name: t.contiguous() for name, t in found.items()}, config


def config_from_huggingface(values: Any) -> TransformerConfig:
    """Return the architecture that a config.json describes.

    Raises `UserError` that names every key whose value our model cannot have, and every key that is not known.
    """
    keys = Keys(values)
    D, expand = keys.whole("hidden_size", 4096), keys.whole("expand", 2)
    E, H, P = expand * D, keys.whole("num_heads", 128), keys.whole("head_dim", 64)
    if H * P != E:
        keys.refuse("head_dim", f"is {P}: num_heads {H} of expand x hidden_size {E} are {E / H:g} wide")
    if (groups := keys.whole("n_groups", 8)) != 1:
        keys.refuse("n_groups", f"is {groups}, and must be 1: all heads share B and C")
    limits = keys.get("time_step_limit")
    if limits is not None and not _unlimited(limits):
        keys.refuse("time_step_limit", f"is {shown(limits)}, and must be [0, Infinity]")
    options = {"state": keys.whole("state_size", 128), "kernel": keys.whole("conv_kernel", 4), "norm_groups": 1}
    settings = {
        "mixer": {"mamba2": {**options, "expand": expand}},
        "mlp": "none",
        "d_model": D,
        "n_layers": keys.whole("num_hidden_layers", 64),
        "n_heads": H,
        "vocab_size": keys.whole("vocab_size", 32768),
        "norm_eps": keys.number("layer_norm_epsilon", 1e-5),
        "bias": keys.flag("use_bias", False),
        "tied_embeddings": keys.flag("tie_word_embeddings", False),
    }
    keys.finish(HARMLESS, FIXED)
    return read_settings(settings)


def config_to_huggingface(config: TransformerConfig) -> dict[str, Any]:
    """Return the contents of config.json for an architecture that the layout can hold."""
    options = _options(config)
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_heads": config.heads,
        "head_dim": options.expand * config.d_model // config.heads,
        "state_size": options.state,
        "expand": options.expand,
        "conv_kernel": options.kernel,
        "n_groups": 1,
        "vocab_size": config.vocab_rows,
        "layer_norm_epsilon": config.epsilon,
        "hidden_act": "silu",
        "use_bias": config.bias,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "tie_word_embeddings": config.tied_embeddings,
    }


def _options(config: TransformerConfig) -> Mamba2Options:
    options = config.mixers[0].options
    assert isinstance(options, Mamba2Options)
    return options


def _unlimited(limits: Any) -> bool:
    """Whether steps may have any size: they are above 0 anyway."""
    return isinstance(limits, list | tuple) and len(limits) == 2 and among(limits[0], (0,)) and limits[1] in INFINITE


def _rows(config: TransformerConfig) -> dict[str, int]:
    """Return the rows of each of our parts of what is joined there."""
    E, H, N = _options(config).expand * config.d_model, config.heads, _options(config).state
    widths = {
        "into": 2 * E,
        "bc": 2 * N,
        "dt": H,
        "conv_x": E,
        "conv_bc": 2 * N,
        "conv_x_bias": E,
        "conv_bc_bias": 2 * N,
    }
    return {part: widths[part.split(".")[1]] for parts in _JOINED.values() for part in parts}


def _their_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape there of each parameter."""
    D, H, k, V = config.d_model, config.heads, _options(config).kernel, config.vocab_rows
    E, rows = _options(config).expand * D, _rows(config)
    total = {other: sum(rows[part] for part in parts) for other, parts in _JOINED.items()}
    shapes: dict[str, tuple[int, ...]] = {
        "norm.weight": (D,),
        "mixer.dt_bias": (H,),
        "mixer.A_log": (H,),
        "mixer.D": (H,),
        "mixer.norm.weight": (E,),
        "mixer.out_proj.weight": (D, E),
        "mixer.in_proj.weight": (total["mixer.in_proj.weight"], D),
        _CONVOLUTION: (total[_CONVOLUTION], 1, k),
        "mixer.conv1d.bias": (total["mixer.conv1d.bias"],),
    }
    if config.bias:
        shapes |= {"mixer.in_proj.bias": (total["mixer.in_proj.bias"],), "mixer.out_proj.bias": (D,)}
    top: dict[str, tuple[int, ...]] = {_TOP["embed.weight"]: (V, D), _TOP["norm.weight"]: (D,)}
    if not config.tied_embeddings:
        top[HEAD] = (V, D)
    return top | {
        f"backbone.layers.{n}.{name}": shape for n in range(config.n_layers) for name, shape in shapes.items()
    }
