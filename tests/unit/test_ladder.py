"""The files of configs/model: every stated count is the exact one, and published models have their published size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from trainer.config.load import read_yaml
from trainer.config.model import ModelConfig, parse_model
from trainer.config.parallel import Degrees
from trainer.models.build import make_model
from trainer.models.registry import cost_of
from trainer.models.transformer.config import TransformerConfig
from trainer.plan.counting import count_parameters

FILES = sorted((ROOT / "configs" / "model").glob("*.yaml"))
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "llama2-7B": 6_738_415_616,
    "llama3-8B": 8_030_261_248,
    "mamba2-130m": 128_989_632,
}
ROUNDED = {"awd-lstm": 33e6, "qrnn-merity": 151e6, "adaptive-input": 247e6}  # as papers say them


def load(path: Path) -> ModelConfig:
    values = read_yaml(path)
    values.setdefault("vocab_size", 50304)
    return parse_model(values)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_stated_count_is_exact(path: Path):
    config = load(path)
    stated = re.search(r"# body ([\d,]+) parameters", path.read_text())
    assert stated is not None
    assert int(stated[1].replace(",", "")) == count_parameters(config).body
    with torch.device("meta"):
        built = sum(p.numel() for p in make_model(config).parameters())
    assert count_parameters(config).total == built


def test_the_ladder_reaches_from_ten_thousand_to_175_billion():
    bodies = [count_parameters(load(path)).body for path in FILES]
    assert min(bodies) < 15_000
    assert max(bodies) > 170e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(name: str):
    assert count_parameters(load(ROOT / "configs" / "model" / f"{name}.yaml")).total == PUBLISHED[name]


def test_transformer_xl_has_its_published_size():
    """The paper states 41M; its code has 41,055,436, and the file says where the rest is."""
    path = ROOT / "configs" / "model" / "transformer-xl-enwik8.yaml"
    assert count_parameters(load(path)).total == 41_055_436 + 24_576 + 11_264 - 204


@pytest.mark.parametrize("name", ROUNDED)
def test_published_models_have_their_rounded_size(name: str):
    total = count_parameters(load(ROOT / "configs" / "model" / f"{name}.yaml")).total
    assert ROUNDED[name] == 1e6 * (total // 10**6 if name == "awd-lstm" else round(total / 1e6))  # 33.5 is cut to 33


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_tensor_ranks_can_split_every_rung(path: Path):
    config = load(path)
    if not isinstance(config, TransformerConfig) or config.adaptive is not None:
        pytest.skip("its layers or its bands of words cannot be split")
    if path.stem == "gpt2-xl":  # 25 heads, as published
        pytest.skip("25 heads do not divide by two")
    if path.stem == "mamba2-130m":  # one norm over all channels, as published
        pytest.skip("its norm cannot be shared out")
    cost_of("transformer").check_splits(config, Degrees(data=1, sequence=1, tensor=2))
