"""Make sure that a configuration's data are prepared, in a process of its own: only the data plane imports datasets."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from trainer.config.data import DataConfig
from trainer.config.resolve import with_data
from trainer.config.run import RunConfig
from trainer.data.manifest import Manifest
from trainer.errors import UserError
from trainer.run_dir import EXIT_USER_ERROR


def is_prepared(config: DataConfig) -> bool:
    """Return whether the complete set of this very configuration lies in its directory."""
    if not (Path(config.directory) / "manifest.json").exists():
        return False
    manifest = Manifest.open(config.directory)
    return manifest.complete and manifest.config_hash == config.content_hash()


def ensure_prepared(config: DataConfig) -> Manifest:
    """Prepare the data unless they are, with their progress on this terminal. Raises UserError."""
    if not is_prepared(config):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{config.name}.yaml"
            path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
            code = subprocess.run([sys.executable, "-m", "trainer.data.prepare", "--config", str(path)]).returncode
        if code == EXIT_USER_ERROR:
            raise UserError(f"the data set {config.name!r} was not prepared, for the reason above")
        if code != 0:
            raise UserError(f"preparing the data set {config.name!r} ended with code {code}; run it again to go on")
    return Manifest.open(config.directory)


def resolve(config: RunConfig) -> tuple[RunConfig, Manifest]:
    """Return the configuration with its vocabulary, and its prepared data's manifest."""
    manifest = ensure_prepared(config.data)
    return with_data(config, manifest), manifest
