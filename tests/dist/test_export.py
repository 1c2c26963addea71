"""What leaves Escala: one file, and models that `transformers` computes the same logits with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from launch.commands.checkpoint import checkpoint as command
from tests.dist.pool import RankPool
from tests.dist.runs import global_batch, tiny
from tests.dist.test_checkpoint import train_from
from trainer.checkpoint.convert import consolidate, main
from trainer.checkpoint.manifest import read_manifest
from trainer.contract.errors import UserError
from trainer.models.build import make_model

MODELS: dict[str, dict[str, Any]] = {
    "llama": {"n_kv_heads": 2},
    "llama separate tied": {"fused_qkv": False, "tied_embeddings": True},
    "llama untied": {"tied_embeddings": False, "rotary_base": 500_000.0},
    "qwen3": {"qk_norm": True},
    "gpt2": {"norm": "layernorm", "mlp": "gelu_tanh", "position": "learned", "bias": True},
    "gpt2 exact": {"norm": "layernorm", "mlp": "gelu", "position": "learned", "bias": True},
    "mamba2": {"mixer": {"mamba2": {"norm_groups": 1}}, "mlp": "none", "d_ff": None, "bias": True},
}


def logits_of(source: Path) -> torch.Tensor:
    """Return our logits for a batch from a checkpoint's parameters."""
    tensors, config = consolidate(source)
    model = make_model(config)
    model.load_state_dict({**tensors, "head.weight": tensors.get("head.weight", tensors["embed.weight"])})
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(global_batch(0).inputs)
    return logits


@pytest.mark.parametrize("name", MODELS)
def test_transformers_agree(ranks: RankPool, tmp_path: Path, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    tensor = 1 if name == "mamba2" else 2  # its norm is over all channels
    config = tiny(model=MODELS[name], parallel={"tensor": tensor, "zero_stage": 3})
    ranks.run(2 * tensor, train_from, config, str(tmp_path), 0, 3, None)
    source, exported = tmp_path / "step_000000003", tmp_path / "exported"
    assert main([str(source), str(exported), "--to", "huggingface"]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported).eval()
    with torch.no_grad():
        assert torch.allclose(theirs(global_batch(0).inputs).logits, logits_of(source), atol=2e-5)
    assert main([str(exported), str(tmp_path / "back"), "--to", "checkpoint"]) == 0
    assert torch.equal(logits_of(tmp_path / "back" / "step_000000000"), logits_of(source))


def test_one_file_and_the_commands(ranks: RankPool, tmp_path: Path) -> None:
    ranks.run(2, train_from, tiny(parallel={"tensor": 2}), str(tmp_path), 0, 1, None)
    source = tmp_path / "step_000000001"
    assert main([str(tmp_path), str(tmp_path / "model.safetensors"), "--dtype", "bf16"]) == 0
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["blocks.0.attn.qkv.weight"].shape == (96, 32)
    assert tensors["embed.weight"].dtype == torch.bfloat16
    shown = json.loads(CliRunner().invoke(command, ["inspect", str(tmp_path), "--json"]).stdout)
    assert shown[0]["parameters"] == sum(t.numel() for t in tensors.values())
    assert "sound" in CliRunner().invoke(command, ["verify", str(source)]).stdout
    (source / "rank_00001.safetensors").unlink()
    result = CliRunner().invoke(command, ["verify", str(source)])
    assert isinstance(result.exception, UserError)
    assert "rank_00001.safetensors is missing" in result.stdout


def test_what_no_layout_holds_is_refused(ranks: RankPool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks.run(1, train_from, tiny(model={"norm": "layernorm"}), str(tmp_path), 0, 1, None)
    assert main([str(tmp_path), str(tmp_path / "out"), "--to", "huggingface"]) == 2
    assert (
        "no Hugging Face layout holds this model, so export safetensors: the model has norm layernorm"
        in capsys.readouterr().err
    )


def test_a_family_that_is_not_installed_is_said(
    ranks: RankPool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks.run(1, train_from, tiny(), str(tmp_path), 0, 1, None)
    manifest = read_manifest(tmp_path / "step_000000001")
    foreign = replace(manifest, architecture={**manifest.architecture, "family": "mine"})
    (tmp_path / "step_000000001" / "manifest.json").write_text(foreign.to_json())
    assert main([str(tmp_path), str(tmp_path / "out.safetensors")]) == 2
    said = capsys.readouterr().err
    assert "there is no family 'mine' of models" in said and "could not be written" not in said


def test_a_source_that_cannot_be_read_is_not_called_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there" / "config.json").mkdir(parents=True)
    assert main([str(tmp_path / "there"), str(tmp_path / "out"), "--to", "checkpoint"]) == 2
    said = capsys.readouterr().err
    assert "config.json cannot be read" in said and "could not be written" not in said
