"""A trained run as one model in one process: for sampling and evaluation. Needs the run directory alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.checkpoint.load import Source
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.search import sound_checkpoint
from trainer.config.load import load_written
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir
from trainer.data.tokenize.run_tokenizer import tokenizer_of_run
from trainer.data.tokenize.tokenizer import Tokenizer
from trainer.engine.protocol import WEIGHT
from trainer.models.build import make_model
from trainer.models.interface import LanguageModel, tie_head
from trainer.parallel.tensor.split import Split


@dataclass(frozen=True)
class TrainedRun:
    """What a run has come to: its newest sound checkpoint as a model, and its tokenizer."""

    config: RunConfig
    checkpoint: Path
    manifest: Manifest
    model: LanguageModel
    tokenizer: Tokenizer


def open_run(run_dir: RunDir) -> TrainedRun:
    """Load the newest sound checkpoint of a run, of whatever layout. Raises UserError where there is none."""
    if not run_dir.config.exists():
        raise UserError(f"{run_dir.root} is not a run directory: it has no config.yaml")
    config = load_written(run_dir.config)
    checkpoint, manifest = sound_checkpoint(run_dir.root)
    expected = manifest.state.get("identity", {}).get("tokenizer")
    tokenizer = tokenizer_of_run(run_dir.tokenizer, config.data, expected)
    return TrainedRun(config, checkpoint, manifest, load_model(checkpoint, manifest, config), tokenizer)


def load_model(checkpoint: Path, manifest: Manifest, config: RunConfig) -> LanguageModel:
    """Return the model of a checkpoint, whole, in one process. Raises UserError where it is another model."""
    source = Source(checkpoint, manifest)
    model_config = config.model
    if model_config.vocab_size is None:
        model_config = model_config.model_copy(update={"vocab_size": manifest.architecture["vocab_size"]})
    with torch.device("meta"):
        model = make_model(model_config)
    weights = {name: source.read_share(name, WEIGHT, Split(shape)) for name, shape in manifest.parameters.items()}
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if expected != {name: tuple(weight.shape) for name, weight in weights.items()}:
        raise UserError(f"{checkpoint} holds another model than the run's configuration describes")
    missing, _ = model.load_state_dict(weights, strict=False, assign=True)
    assert missing in ([], ["head.weight"]), missing
    tie_head(model)
    return model
