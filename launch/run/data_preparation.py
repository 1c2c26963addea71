"""Make sure that a configuration's data are prepared, in a process of its own: only the data plane imports datasets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from launch.run.rank_packages import need_rank_packages
from trainer.config.data import DataConfig
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_USER_ERROR
from trainer.data.store.manifest import FILE, Manifest
from trainer.data.tokenize.tokenizer import check_tokenizer
from trainer.plan.resolve import with_data


def prepared(config: DataConfig) -> Manifest | None:
    """Return the manifest of the set of this very configuration, local or remote, or None where it is not ready.

    Ready is a complete set, or one with something published where the run may begin with that.

    Raises UserError for a remote set that is not there or cannot be reached.
    """
    if "://" in config.root:
        from trainer.data.store.cache import read_manifest

        manifest = read_manifest(config.directory)
    elif (Path(config.directory) / FILE).exists():
        manifest = Manifest.open(config.directory)
        check_tokenizer(config.directory, manifest.tokenizer_hash)
    else:
        return None
    ready = manifest.complete or config.begin == "published"
    return manifest if ready and manifest.config_hash == config.content_hash() else None


def is_prepared(config: DataConfig) -> bool:
    """Return whether the set of this very configuration is ready to be trained on."""
    return prepared(config) is not None


def ensure_prepared(config: DataConfig) -> Manifest:
    """Prepare the data unless they are, with their progress on this terminal. Raises UserError."""
    if found := prepared(config):
        return found
    if config.begin == "published":
        raise UserError(
            f"nothing of the data set {config.name!r} is published in {config.directory} yet: start "
            f"escala data prepare and wait for its first part, or leave data.begin=published out to prepare all of it"
        )
    need_rank_packages()
    # The configuration goes through a pipe: a file would stay behind when all processes are killed.
    command = [sys.executable, "-m", "trainer.data.prepare", "--config", "-"]
    code = subprocess.run(command, input=json.dumps(config.model_dump(mode="json")).encode()).returncode
    if code == EXIT_USER_ERROR:
        raise UserError(f"the data set {config.name!r} was not prepared, for the reason above")
    if code != 0:
        raise UserError(f"preparing the data set {config.name!r} ended with code {code}; run it again to go on")
    return Manifest.open(config.directory)


def resolve(config: RunConfig) -> tuple[RunConfig, Manifest]:
    """Return the configuration with its vocabulary, and its prepared data's manifest."""
    manifest = ensure_prepared(config.data)
    return with_data(config, manifest), manifest


def resolve_prepared(config: RunConfig) -> tuple[RunConfig, Manifest]:
    """Return what `resolve` does for a question, which prepares nothing. Raises UserError where the data are not."""
    manifest = prepared(config.data)
    if manifest is None:
        raise UserError(
            f"the data set {config.data.name!r} is not prepared, so its vocabulary is not known: `escala data prepare` "
            "prepares it, and so does `escala sweep run --dry-run` for all cells of a sweep"
        )
    return with_data(config, manifest), manifest
