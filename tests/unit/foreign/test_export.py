"""An exported model knows its end token and carries its tokenizer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.unit.foreign.models import BASE, weights_of
from trainer.checkpoint.convert import main
from trainer.checkpoint.manifest import read_manifest
from trainer.data.tokenize.tokenizer import Tokenizer, save_tokenizer

transformers = pytest.importorskip("transformers")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with one checkpoint, imported from a model with 300 rows."""
    values = {**BASE["llama"], "vocab_size": 300}
    source = tmp_path / "source"
    source.mkdir()
    save_file(weights_of(values, values, 0), source / "model.safetensors", metadata={"format": "pt"})
    (source / "config.json").write_text(json.dumps(values))
    assert main([str(source), str(tmp_path / "run" / "checkpoints"), "--to", "checkpoint"]) == 0
    return tmp_path / "run"


def trained_with(run: Path, tokenizer: Tokenizer) -> None:
    checkpoint = run / "checkpoints" / "step_000000000"
    manifest = replace(read_manifest(checkpoint), state={"identity": {"tokenizer": tokenizer.hash}})
    (checkpoint / "manifest.json").write_text(manifest.to_json())


@pytest.mark.parametrize("where", ["run", "data", "relative data", "remote data"])
def test_an_export_carries_the_tokenizer(run: Path, tmp_path: Path, where: str) -> None:
    place = run / "tokenizer" if where == "run" else tmp_path / "data" / "books" / "tokenizer"
    trained_with(run, save_tokenizer(place, "bytes", b""))
    if where != "run":
        root = {"data": str(tmp_path / "data"), "relative data": "data"}.get(where, f"file://{tmp_path / 'data'}")
        settings = {
            "model": {"d_model": 32, "n_layers": 2, "n_heads": 4}, "batch": {"tokens_per_step": 64}, "steps": 1,
            "data": {"name": "books", "root": root},
        }  # fmt: skip
        (run / "config.yaml").write_text(json.dumps(settings))
    assert main([str(run), str(tmp_path / "out"), "--to", "huggingface", "--dtype", "bf16"]) == 0
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (values["eos_token_id"], values["bos_token_id"], values["pad_token_id"]) == (256, 256, None)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "naïve\ttext\n with  spaces"
    assert tokenizer.encode(text) == list(text.encode()) and tokenizer.eos_token_id == 256
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.bfloat16 and model.generation_config.eos_token_id == 256


def test_a_tokenizer_of_another_run_is_not_taken(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained_with(run, save_tokenizer(tmp_path / "other", "bytes", b""))
    save_tokenizer(run / "tokenizer", "bytes", b"")
    meta = run / "tokenizer" / "meta.json"
    meta.write_text(meta.read_text().replace(json.loads(meta.read_text())["hash"], "0" * 16))
    assert main([str(run), str(tmp_path / "out"), "--to", "huggingface"]) == 0
    assert "no tokenizer of" in capsys.readouterr().err
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert values["eos_token_id"] is None and not (tmp_path / "out" / "tokenizer.json").exists()


def test_what_cannot_be_converted_is_a_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    for arguments, problem in (
        ([str(source), str(run / "checkpoints"), "--to", "checkpoint"], "is a checkpoint already"),
        ([str(source), str(tmp_path / "new"), "--to", "checkpoint", "--dtype", "bf16"], "--dtype bf16 has no effect"),
        ([str(tmp_path), str(tmp_path / "new"), "--to", "checkpoint"], "needs config.json and"),
        ([str(run), str(source / "config.json" / "x"), "--to", "huggingface"], "could not be written"),
    ):
        assert main(arguments) == 2
        assert problem in capsys.readouterr().err
    (source / "adapter_config.json").write_text("{}")
    assert main([str(source), str(tmp_path / "new"), "--to", "checkpoint"]) == 2
    assert "merge the adapter" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_value_beyond_half_precision_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**BASE["llama"], "vocab_size": 300}
    tensors = weights_of(values, values, 0)
    tensors["model.norm.weight"][3] = 1e5
    source = tmp_path / "large"
    source.mkdir()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    (source / "config.json").write_text(json.dumps(values))
    assert main([str(source), str(tmp_path / "start"), "--to", "checkpoint"]) == 0
    assert main([str(tmp_path / "start"), str(tmp_path / "out"), "--to", "huggingface", "--dtype", "fp16"]) == 2
    assert "norm.weight has a value of 100000, beyond fp16's largest" in capsys.readouterr().err
