"""Publish the finished parts of a set as its manifest, for those who train on them already."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from trainer.config.data import HELD_OUT, TRAIN, DataConfig
from trainer.data.manifest import Manifest
from trainer.data.parts import Part, build_manifest, finished, release
from trainer.data.progress import Progress, duration
from trainer.data.round_trip import altered_share, with_round_trips
from trainer.data.tokenizer import DIRECTORY, Tokenizer
from trainer.errors import UserError


def publish(config: DataConfig, parts: list[Part], tokenizer: Tokenizer, root: Path) -> Manifest:
    """Write the manifest of what is finished so far, for those who train on it already, and return it."""
    with FileLock(root / "parts" / "set.lock"):
        done = finished(root, parts)
        manifest = with_round_trips(build_manifest(config, parts, done, tokenizer), root / DIRECTORY)
        if manifest.complete:
            if not manifest.splits[TRAIN]:
                release(root, done)
            check_not_empty(config, manifest)
        if manifest.splits[TRAIN]:
            manifest.save(root)
        return manifest


def check_not_empty(config: DataConfig, manifest: Manifest) -> None:
    """Raise UserError for a set that nobody can train on or evaluate on."""
    read = sum(source["documents_read"] for source in manifest.report.values())
    names = ", ".join(source.path for source in config.sources)
    if not manifest.splits[TRAIN]:
        raise UserError(f"no training document came out of {names} ({read} passed the filters)")
    if config.held_out_fraction > 0 and not manifest.splits[HELD_OUT]:
        raise UserError(
            f"none of {read} documents was held out for validation; raise data.held_out_fraction "
            f"({config.held_out_fraction}), or set it to 0 for a set without validation"
        )


def summary(config: DataConfig, manifest: Manifest, root: Path, progress: Progress) -> str:
    """Return the last line of a preparation."""
    state = "prepared" if manifest.complete else f"{progress.parts} parts of {progress.total_parts} are prepared"
    return (
        f"{config.name}: {state} in {root}: {manifest.tokens(TRAIN) / 1e6:.2f} M training tokens, "
        f"{manifest.tokens(HELD_OUT) / 1e6:.3f} M held out, {manifest.bytes_per_token(TRAIN):.2f} bytes per token "
        f"({progress.text_bytes / 1e6:.1f} MB in {duration(progress.seconds())})"
        f"{altered_share(manifest)}"
    )
