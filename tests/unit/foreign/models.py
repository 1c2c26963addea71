"""Small Hugging Face models with mutated files: each is imported exactly, or refused by name.

A mutation changes config.json (a known key, an unknown one, a value of another type, the text itself) or the weights.
The weights are made by `transformers` from the mutated configuration where it can, so a mutation that is taken in part
shows in the logits.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from trainer.checkpoint.huggingface_files import read_huggingface
from trainer.contract.errors import UserError
from trainer.models.huggingface import from_huggingface
from trainer.models.huggingface_keys import HARMLESS
from trainer.models.transformer.config import TransformerConfig
from trainer.models.transformer.huggingface_config import HARMLESS_OF
from trainer.models.transformer.huggingface_mamba2 import HARMLESS as HARMLESS_MAMBA2
from trainer.models.transformer.model import Transformer

TOLERANCE = 1e-5
LARGEST = 512  # of a dimension of a model that is built
BASE: dict[str, dict[str, Any]] = {
    "gpt2": {
        "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24, "vocab_size": 61,
        "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
        "bos_token_id": 0, "eos_token_id": 0,
    },
    "llama": {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 24,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu",
        "bos_token_id": 0, "eos_token_id": 0,
    },
    "qwen3": {
        "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 24,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu",
        "bos_token_id": 0, "eos_token_id": 0,
    },
    "mamba2": {
        "model_type": "mamba2", "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "n_groups": 1,
        "state_size": 16, "expand": 2, "conv_kernel": 4, "chunk_size": 8, "vocab_size": 61, "tie_word_embeddings": True,
        "layer_norm_epsilon": 1e-5, "hidden_act": "silu", "bos_token_id": 0, "eos_token_id": 0,
    },
}  # fmt: skip
SIZES: dict[str, list[Any]] = {
    "vocab_size": [61, 64, 60], "max_position_embeddings": [24, 48], "num_hidden_layers": [1, 2, 3, 10**9],
    "num_attention_heads": [4, 2, 8, 3], "num_key_value_heads": [1, 2, 4, 3, None], "intermediate_size": [48, 96],
    "hidden_size": [32, 64, 33],
}  # fmt: skip
ROTARY: dict[str, list[Any]] = {
    "rope_theta": [10000, 1e4, 5e5, 1, None],
    "rope_scaling": [
        None, {}, {"type": "linear", "factor": 2.0}, {"rope_type": "default"}, {"rope_type": "dynamic", "factor": 4.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    ],
    "rope_parameters": [
        None, {"rope_type": "default", "rope_theta": 1e4}, {"rope_type": "default", "rope_theta": 77.0},
        {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}, {"partial_rotary_factor": 0.5}, "default",
    ],
    "partial_rotary_factor": [1.0, 0.5], "rope_interleaved": [False, True],
}  # fmt: skip
KNOWN: dict[str, dict[str, list[Any]]] = {
    "gpt2": {
        "activation_function": ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "gelu_fast", "quick_gelu"],
        "layer_norm_epsilon": [1e-5, 1e-6, 1e-2, 0.3], "scale_attn_weights": [True, False],
        "scale_attn_by_inverse_layer_idx": [False, True], "reorder_and_upcast_attn": [False, True],
        "add_cross_attention": [False, True], "n_inner": [None, 48, 200], "tie_word_embeddings": [True, False],
        "n_embd": [32, 64, 33], "n_layer": [1, 2, 3], "n_head": [4, 2, 8, 3], "n_positions": [24, 48],
        "vocab_size": [61, 64], "resid_pdrop": [0.1, 0.0], "n_ctx": [24, 48], "hidden_size": [64],
    },
    "llama": {
        **SIZES, **ROTARY, "rms_norm_eps": [1e-6, 1e-5, 1e-3, 0.3], "attention_bias": [False, True],
        "mlp_bias": [False, True], "hidden_act": ["silu", "swish", "gelu", "relu"], "head_dim": [8, 16, None],
        "tie_word_embeddings": [True, False], "pretraining_tp": [1, 2], "sliding_window": [None, 4],
        "attention_dropout": [0.0, 0.1], "attention_multiplier": [2.0], "logits_scaling": [4.0],
    },
    "qwen3": {
        **SIZES, **ROTARY, "rms_norm_eps": [1e-6, 1e-5, 1e-3, 0.3], "attention_bias": [False, True],
        "hidden_act": ["silu", "swish", "gelu", "relu"], "head_dim": [8, 16, None], "sliding_window": [None, 4],
        "use_sliding_window": [False, True], "max_window_layers": [0, 1, 28], "tie_word_embeddings": [True, False],
        "layer_types": [["full_attention"] * 2, ["full_attention", "sliding_attention"], ["full_attention"], 3],
    },
    "mamba2": {
        "vocab_size": [61, 64], "hidden_size": [32, 64, 33], "num_hidden_layers": [1, 2, 3, 10**9],
        "num_heads": [8, 4, 16, 3], "head_dim": [8, 16, None], "n_groups": [1, 2, None], "state_size": [16, 8, None],
        "expand": [2, 1, 4, 2.0], "conv_kernel": [4, 2, 1], "chunk_size": [8, 4, 256], "norm_before_gate": [True],
        "tie_word_embeddings": [True, False], "layer_norm_epsilon": [1e-5, 1e-6, 1e-2, 0.3], "use_bias": [False, True],
        "use_conv_bias": [True, False], "hidden_act": ["silu", "swish", "gelu", "relu"], "rms_norm": [True, False],
        "residual_in_fp32": [True, False], "time_step_limit": [[0.0, float("inf")], [0.0, 0.01], [0.1, 0.2], 3, None],
        "time_step_min": [0.001, 0.5], "time_step_rank": [2, "auto"], "rescale_prenorm_residual": [True, False],
    },
}  # fmt: skip
COMMON: dict[str, list[Any]] = {
    "quantization_config": [None, {"quant_method": "fp8"}], "pruned_heads": [{}, {"0": [1]}], "dtype": ["bfloat16"],
    "is_encoder_decoder": [False, True], "use_cache": [True, False], "model_type": ["mistral", None, 7, "gpt_neo"],
    "initializer_range": [0.02, 0.5], "eos_token_id": [[0, 1], None, 60], "auto_map": [{"AutoModel": "x.Y"}],
}  # fmt: skip
ODD: list[Any] = [None, -1, 0, 1.5, "x", "", [], {}, True, False, 10**30, 1e308, float("nan"), [1], {"a": 1}]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutated model."""

    mutation: str
    imported: bool
    largest_difference: float = 0.0
    refusal: str = ""
    wrong: str = ""  # what went against the promise


def weights_of(values: dict[str, Any], fallback: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Return random weights as `transformers` names them for a configuration, or for the other where it cannot."""
    for candidate in (values, fallback):
        try:
            config = transformers.AutoConfig.for_model(**candidate)
            sizes = [value for value in config.to_dict().values() if type(value) is int]
            if max(sizes, default=0) > LARGEST and candidate is values:
                continue
            model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        except Exception:
            continue
        generator = torch.Generator().manual_seed(seed)
        state = model.state_dict()
        tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
        return {
            name: torch.randn(t.shape, generator=generator) * 0.1
            + (1.0 if t.dim() == 1 and "bias" not in name else 0.0)
            for name, t in state.items()
            if name not in tied
        }
    raise AssertionError("the base configuration cannot be built")


def mutate(rng: random.Random, folder: Path) -> tuple[str, str, dict[str, Any]]:
    """Write a mutated model into a folder. Returns what was changed, the key or file, and the configuration."""
    kind = rng.choice(sorted(BASE))
    values, base = dict(BASE[kind]), BASE[kind]
    how = rng.choices(["known", "common", "odd", "delete", "unknown", "text", "weights"], [8, 2, 4, 2, 2, 1, 4])[0]
    key = ""
    if how in ("known", "common"):
        table = KNOWN[kind] if how == "known" else COMMON
        key = rng.choice(sorted(table))
        values[key] = rng.choice(table[key])
    elif how == "odd":
        key = rng.choice(sorted({*values, *KNOWN[kind]}))
        values[key] = rng.choice(ODD)
    elif how == "delete":
        key = rng.choice(sorted(values))
        del values[key]
    elif how == "unknown":
        key = rng.choice(
            ["embedding_multiplier", "residual_scale", "num_experts", "qk_scale", "final_logit_softcapping"]
        )
        values[key] = rng.choice([1.0, 2, True, {"a": 1}, "yes"])
    seed = rng.randrange(2**30)
    folder.mkdir(parents=True)
    save_file(weights_of(values, base, seed), folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(values)
    if how == "text":
        key, cut = "config.json", rng.randrange(len(text))
        text = text[:cut] + rng.choice(["", "\x00", "]", '"']) + ("" if rng.random() < 0.5 else text[cut + 1 :])
    (folder / "config.json").write_text(text)
    if how == "weights":
        key = damage(rng, folder)
    return f"{kind}: {how} {key} {values.get(key)!r}", key, values


def damage(rng: random.Random, folder: Path) -> str:
    """Damage the weights. Returns the name that a refusal must have."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    choices: dict[str, Callable[[], Any]] = {
        "lack": lambda: tensors.pop(name),
        "more": lambda: tensors.update({f"{name}_scale": torch.ones(1)}),
        "bias": lambda: tensors.update({name.replace("weight", "lora_A"): torch.ones(2)}),
        "shape": lambda: tensors.update({name: torch.cat([tensors[name], tensors[name][:1]])}),
        "flat": lambda: tensors.update({name: tensors[name].flatten()[None]}),
        "integer": lambda: tensors.update({name: tensors[name].to(torch.int8)}),
        "layer": lambda: tensors.update({k.replace(".1.", ".2."): t.clone() for k, t in tensors.items() if ".1." in k}),
        "half": lambda: tensors.update({name: tensors[name].bfloat16()}),
        "head": lambda: tensors.update({"lm_head.weight": torch.randn(61, 32)}),
    }
    how = rng.choice([*sorted(choices), "cut", "byte", "shards", "twice", "no shard"])
    if how in choices:
        choices[how]()
        save_file(tensors, path, metadata={"format": "pt"})
    elif how in ("cut", "byte"):
        content = bytearray(path.read_bytes())
        at = rng.randrange(len(content)) if how == "cut" else rng.randrange(200)
        path.write_bytes(
            content[:at] if how == "cut" else content[:at] + bytes([content[at] ^ 0x15]) + content[at + 1 :]
        )
    else:
        _shard(tensors, folder, how)
    return how


def _shard(tensors: dict[str, torch.Tensor], folder: Path, how: str) -> None:
    """Write the weights in two files with an index; one of them may be missing, or hold a tensor of the other."""
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for file, held in halves.items():
        extra = [names[0]] if how == "twice" else []
        save_file({n: tensors[n] for n in {*held, *extra}}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, held in halves.items() for n in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if how == "no shard":
        (folder / "model-00002-of-00002.safetensors").unlink()


@torch.no_grad()
def try_one(seed: int, folder: Path) -> Outcome:
    """Mutate a model, import it, and compare its logits with those of `transformers`."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    what, key, values = mutate(rng, folder)
    try:
        tensors, config = from_huggingface(*read_huggingface(folder))
    except UserError as error:
        return Outcome(what, imported=False, refusal=str(error), wrong=_not_named(key, str(error)))
    except Exception as error:
        return Outcome(what, imported=False, wrong=f"{type(error).__name__}: {error}")
    assert isinstance(config, TransformerConfig)
    model = Transformer(config)
    head = tensors.get("head.weight", tensors["embed.weight"])
    model.load_state_dict({**tensors, "head.weight": head})
    inputs = torch.randint(
        0, config.vocab_rows, (2, min(24, config.context_length)), generator=torch.Generator().manual_seed(seed)
    )
    try:
        theirs = _peer_logits(folder, values, key, inputs)
    except Exception as error:
        return Outcome(what, imported=True, wrong=f"transformers refuses it: {type(error).__name__}: {error}")
    difference = float((model.eval()(inputs) - theirs).abs().max())
    wrong = "" if difference <= TOLERANCE else f"logits differ by {difference:.2g}"
    return Outcome(what, imported=True, largest_difference=difference, wrong=wrong)


def _peer_logits(folder: Path, values: dict[str, Any], key: str, inputs: torch.Tensor) -> torch.Tensor:
    """Return the logits of `transformers`. What is called harmless must be so: it may be left out, where it objects."""
    of_kind = {**HARMLESS_OF, "mamba2": HARMLESS_MAMBA2}
    harmless = HARMLESS | of_kind.get(str(values.get("model_type")), frozenset())
    try:
        peer, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    except Exception:
        if key not in harmless and values.get(key) is not None:
            raise
        (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != key}))
        peer, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    logits: torch.Tensor = peer.eval()(inputs).logits
    return logits


def _not_named(key: str, refusal: str) -> str:
    """Return what is wrong with a refusal: it names the key, or the tensors, or the file."""
    names = (key, "weight", "bias", "tensors", "layers", "d_model", "n_heads", "rotary_base", "model_type")
    return "" if any(name and name in refusal for name in names) else f"the refusal names nothing: {refusal}"
