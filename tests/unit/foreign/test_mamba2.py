"""Mamba-2 to and from `transformers`: what is mapped, what is refused, and equal logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.foreign.models import BASE
from trainer.contract.errors import UserError
from trainer.models.huggingface import from_huggingface, to_huggingface
from trainer.models.transformer.config import TransformerConfig
from trainer.models.transformer.huggingface_mamba2 import config_from_huggingface
from trainer.models.transformer.model import Transformer

SMALL: dict[str, Any] = BASE["mamba2"]
# state-spaces/mamba2-130m as its conversion for `transformers` states it
PUBLISHED = {
    "model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"], "hidden_size": 768, "num_hidden_layers": 24,
    "num_heads": 24, "head_dim": 64, "state_size": 128, "expand": 2, "conv_kernel": 4, "n_groups": 1, "chunk_size": 256,
    "hidden_act": "silu", "layer_norm_epsilon": 1e-05, "norm_before_gate": False, "rms_norm": True, "use_bias": False,
    "rescale_prenorm_residual": False, "residual_in_fp32": True, "tie_word_embeddings": True, "time_step_floor": 0.0001,
    "time_step_limit": [0.0, float("inf")], "time_step_max": 0.1, "time_step_min": 0.001, "time_step_rank": 48,
    "use_conv_bias": True, "use_cache": True, "vocab_size": 50288, "torch_dtype": "float32",
}  # fmt: skip
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n_groups": 2}, "n_groups is 2, and must be 1: all heads share B and C"),
    ({"n_groups": None}, "n_groups is 8"),
    ({"use_conv_bias": False}, "use_conv_bias is False, and must be True"),
    ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
    ({"rms_norm": False}, "rms_norm is False"),
    ({"rescale_prenorm_residual": True}, "rescale_prenorm_residual is True"),
    ({"head_dim": 16}, "head_dim is 16: num_heads 8 of expand x hidden_size 64 are 8 wide"),
    ({"time_step_limit": [0.0, 0.1]}, r"time_step_limit is [0.0, 0.1], and must be [0, Infinity]"),
    ({"expand": 1.5}, "expand is 1.5, and must be a whole number above 0"),
    ({"sliding_window": 8}, "sliding_window is 8, and not known here"),
]


@pytest.mark.parametrize(("change", "problem"), REFUSED, ids=[next(iter(change)) for change, _ in REFUSED])
def test_what_the_model_does_not_have_is_refused_by_name(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError) as caught:
        config_from_huggingface({**SMALL, **change})
    assert problem in str(caught.value)


def test_the_published_configuration_is_taken() -> None:
    config = config_from_huggingface(PUBLISHED)
    assert (config.d_model, config.n_layers, config.heads, config.mlp) == (768, 24, 24, "none")
    assert (config.epsilon, config.position, config.tied_embeddings) == (1e-5, "none", True)
    other = {**PUBLISHED, "time_step_limit": [0.0, {"__float__": "Infinity"}], "norm_before_gate": True}
    assert config_from_huggingface(other) == config


def random_model(config: TransformerConfig) -> Transformer:
    """Return a model whose parameters, norms and biases included, are all random."""
    torch.manual_seed(1)
    model = Transformer(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(name.endswith(("norm.weight", "scale", "skip"))), std=0.1)
    return model.eval()


@pytest.mark.parametrize("changes", [{}, {"use_bias": True, "tie_word_embeddings": False}], ids=["tied", "biases"])
@torch.no_grad()
def test_transformers_computes_the_same_logits_both_ways(tmp_path: Path, changes: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    ours = random_model(config_from_huggingface({**SMALL, **changes}))
    state = {name: p.detach() for name, p in ours.named_parameters()}
    tensors, values = to_huggingface(state, ours.config)
    theirs = transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**values)).eval()
    wanted, given = theirs.load_state_dict({**tensors, "lm_head.weight": ours.head.weight}, strict=False)
    assert not wanted and not given
    inputs = torch.randint(0, 61, (2, 150), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(theirs(inputs).logits, ours(inputs), atol=1e-5)

    theirs.save_pretrained(tmp_path)
    from trainer.checkpoint.huggingface_files import read_huggingface

    back, again = from_huggingface(*read_huggingface(tmp_path))
    assert again == ours.config and back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mlp": "swiglu"}, "llama, qwen3 and gpt2 have no mixer mamba2 (norm_groups 1); the model has mlp swiglu"),
        ({"mixer": "mamba2"}, "the model has norm_groups 4: mamba2 needs"),
        ({"position": "learned", "norm_placement": "post"}, "the model has position learned, norm_placement post"),
        ({"mixer": "lstm", "n_heads": None}, "have no mixer lstm; mamba2 has no mixer lstm"),
        ({"pattern": ["mamba2", "attention"], "mixer": None}, "mamba2 has no mixer mamba2 + attention"),
    ],
)
def test_what_no_layout_holds_is_refused_with_the_reasons(changes: dict[str, Any], problem: str) -> None:
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 61, "mlp": "none"}
    values = {**shape, "mixer": {"mamba2": {"norm_groups": 1}}, **changes}
    config = TransformerConfig(**{key: value for key, value in values.items() if value is not None})
    with pytest.raises(UserError, match="no Hugging Face layout holds this model, so export safetensors") as caught:
        to_huggingface({}, config)
    assert problem in str(caught.value)


def test_a_tied_model_with_another_head_and_other_layers_are_refused() -> None:
    model = random_model(config_from_huggingface(SMALL))
    tensors, values = to_huggingface({name: p.detach() for name, p in model.named_parameters()}, model.config)
    embedding = tensors["backbone.embeddings.weight"]
    assert from_huggingface({**tensors, "lm_head.weight": embedding}, values)[1] == model.config
    with pytest.raises(UserError, match=r"hold lm_head.weight beside another backbone.embeddings.weight"):
        from_huggingface({**tensors, "lm_head.weight": embedding + 1}, values)
    with pytest.raises(UserError, match=r"config.json describes 3 layers, the files hold 2"):
        from_huggingface(tensors, {**values, "num_hidden_layers": 3})
