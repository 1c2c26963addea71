"""The keys of a Hugging Face config: each is mapped, harmless, or refused by name with its value."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.unit.foreign.models import BASE
from trainer.contract.errors import UserError
from trainer.models.transformer.config import TransformerConfig
from trainer.models.transformer.huggingface import from_huggingface, layout_of, to_huggingface
from trainer.models.transformer.huggingface_config import config_from_huggingface, config_to_huggingface
from trainer.models.transformer.model import Transformer

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"attention_bias": True}, "attention_bias is True, and must be False"),
    ("llama", {"mlp_bias": True}, "mlp_bias is True"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu', and must be 'silu' or 'swish'"),
    ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling.rope_type is 'llama3': scaled"),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters.rope_type is 'yarn'"),
    (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
        "rope_theta has several values: 7, 10000",
    ),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("llama", {"head_dim": 16}, "head_dim is 16: here num_attention_heads 4 of hidden_size 32 are 8 wide"),
    ("llama", {"sliding_window": 4096}, "sliding_window is 4096, and not known here"),
    ("llama", {"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0, and not known here"),
    ("llama", {"hidden_size": "32"}, "hidden_size is '32', and must be a whole number above 0"),
    ("llama", {"rms_norm_eps": 0}, "rms_norm_eps is 0, and must be a number above 0"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, and must be nothing"),
    ("qwen3", {"use_sliding_window": True}, "use_sliding_window is True"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
    ("qwen3", {"head_dim": None}, "head_dim is 128"),
    ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu', and must be 'gelu_new' or"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
    ("gpt2", {"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
    ("gpt2", {"n_layer": None, "n_head": True}, "n_layer is missing; n_head is True"),
    ("gpt2", {"model_type": "gpt_neo"}, "model_type 'gpt_neo' is not known here"),
]


@pytest.mark.parametrize(("kind", "change", "problem"), REFUSED, ids=[f"{k} {next(iter(c))}" for k, c, _ in REFUSED])
def test_what_the_model_does_not_have_is_refused_by_name(kind: str, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        config_from_huggingface({**BASE[kind], **change})
    for part in problem.split("; "):
        assert part in str(caught.value)


def test_what_is_mapped() -> None:
    llama = config_from_huggingface({**BASE["llama"], "rope_theta": 5e5, "rms_norm_eps": 1e-5, "hidden_act": "swish"})
    assert (llama.rotary_base, llama.norm_eps, llama.kv_heads, llama.tied_embeddings) == (5e5, 1e-5, 2, False)
    nested = {**BASE["llama"], "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}, "rope_theta": None}
    assert config_from_huggingface(nested).rotary_base == 7.0
    gpt2 = config_from_huggingface({**BASE["gpt2"], "activation_function": "gelu_pytorch_tanh", "n_inner": None})
    assert (gpt2.mlp, gpt2.ff_width, gpt2.norm_eps) == ("gelu_tanh", 128, None)
    harmless = {"use_cache": False, "attention_dropout": 0.1, "transformers_version": "5.0", "unknown": None}
    assert config_from_huggingface({**BASE["qwen3"], **harmless}) == config_from_huggingface(BASE["qwen3"])


PUBLISHED: list[tuple[str, dict[str, Any], str]] = [
    (
        "gpt2",
        {
            "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
            "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12,
            "n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None,
            "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
            "summary_use_proj": True, "vocab_size": 50257,
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        },
        "",
    ),
    (
        "TinyLlama 1.1B",
        {
            "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 5632,
            "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32,
            "num_hidden_layers": 22, "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "transformers_version": "4.35.0", "use_cache": True, "vocab_size": 32000,
        },
        "",
    ),
    (
        "Llama 3.2 1B",
        {
            "attention_bias": False, "attention_dropout": 0.0, "head_dim": 64, "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False,
            "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
            "rope_scaling": {
                "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
        },
        "rope_scaling.rope_type is 'llama3'",
    ),
    (
        "Qwen3 8B",
        {
            "attention_bias": False, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 40960,
            "max_window_layers": 36, "model_type": "qwen3", "num_attention_heads": 32, "num_hidden_layers": 36,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000,
            "sliding_window": None, "tie_word_embeddings": False, "use_sliding_window": False, "vocab_size": 151936,
        },
        "",
    ),
    (
        "Qwen3 0.6B",
        {
            "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
            "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06, "rope_theta": 1000000, "tie_word_embeddings": True, "vocab_size": 151936,
        },
        "head_dim is 128: here num_attention_heads 16 of hidden_size 1024 are 64 wide",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "refused"), PUBLISHED, ids=[name for name, _, _ in PUBLISHED])
def test_published_configurations(name: str, values: dict[str, Any], refused: str) -> None:
    if refused:
        with pytest.raises(UserError) as caught:
            config_from_huggingface(values)
        assert refused in str(caught.value)
    else:
        assert config_from_huggingface(values).vocab_size == values["vocab_size"]


def test_a_model_without_norm_eps_keeps_its_identity() -> None:
    """Names of runs and manifests of checkpoints are made from these values."""
    plain = TransformerConfig(d_model=32, n_layers=1, n_heads=4, vocab_size=61)
    assert "norm_eps" not in plain.model_dump() and plain.epsilon == 1e-6
    other = plain.model_copy(update={"norm_eps": 1e-5})
    assert TransformerConfig(**other.model_dump()) == other and other.epsilon == 1e-5
    assert Transformer(other).norm.eps == 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3"])
def test_what_is_exported_is_what_is_expected_back(kind: str) -> None:
    config = config_from_huggingface({**BASE[kind], **({} if kind == "gpt2" else {"rms_norm_eps": 3e-4})})
    model = Transformer(config)
    state = {name: p.detach() for name, p in model.named_parameters()}
    tensors, values = to_huggingface(state, config)
    assert values == config_to_huggingface(config, layout_of(config))
    back, again = from_huggingface(tensors, values)
    assert again == config and back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    old = {"h.0.attn.bias": torch.ones(1), "h.1.attn.masked_bias": torch.ones(1)} if kind == "gpt2" else {}
    bare = {name.removeprefix("transformer.") if kind == "gpt2" else name: t for name, t in tensors.items()}
    assert from_huggingface({**bare, **old}, values)[0].keys() == state.keys()


def test_a_tied_model_with_another_head_is_refused() -> None:
    config = config_from_huggingface(BASE["gpt2"])
    tensors, values = to_huggingface(dict(Transformer(config).named_parameters()), config)
    embedding = tensors["transformer.wte.weight"]
    assert from_huggingface({**tensors, "lm_head.weight": embedding}, values)[1] == config
    with pytest.raises(UserError, match=r"hold lm_head.weight beside another transformer.wte.weight"):
        from_huggingface({**tensors, "lm_head.weight": embedding + 1}, values)
