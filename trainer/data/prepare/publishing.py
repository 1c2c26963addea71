"""Publish the finished parts of a set as its manifest, for those who train on them already."""

from __future__ import annotations

from pathlib import Path

from trainer.config.data import HELD_OUT, TRAIN, DataConfig
from trainer.contract.durations import duration
from trainer.contract.errors import UserError
from trainer.data.prepare.account import account
from trainer.data.prepare.claim import release, set_lock
from trainer.data.prepare.parts import Part, build_manifest, finished
from trainer.data.prepare.progress import Progress
from trainer.data.source.input_list import InputList
from trainer.data.store.manifest import FILE, Manifest
from trainer.data.store.unigram import unigram_entropy
from trainer.data.tokenize.round_trip import altered_share, with_round_trips
from trainer.data.tokenize.tokenizer import DIRECTORY, Tokenizer


def publish(config: DataConfig, tokenizer: Tokenizer, root: Path) -> Manifest:
    """Write the manifest of what is finished so far, for those who train on it already, and return it."""
    with set_lock(root):
        parts = list_parts(config, root)
        done = finished(root, parts)
        manifest = with_round_trips(build_manifest(config, parts, done, tokenizer), root / DIRECTORY)
        if manifest.complete:
            useless = not manifest.splits[TRAIN] or (_lacks_held_out(config, manifest) and not (root / FILE).exists())
            if useless:
                release(root, done)
            check_not_empty(config, manifest, root)
        if manifest.splits[TRAIN]:
            manifest = _with_entropy(manifest, root) if manifest.complete else manifest
            manifest.save(root)
        return manifest


def _with_entropy(manifest: Manifest, root: Path) -> Manifest:
    entropy = unigram_entropy(root, manifest.splits[TRAIN], manifest.dtype, manifest.vocab_size)
    return manifest.model_copy(update={"unigram_entropy": entropy})


def list_parts(config: DataConfig, root: Path) -> list[Part]:
    """Return all parts of the set in their final order, as they are listed now: another process may have added some."""
    inputs = InputList.read(root)
    assert inputs is not None, "a preparation writes its list of inputs before anything else"
    return inputs.parts(config)


def check_not_empty(config: DataConfig, manifest: Manifest, root: Path) -> None:
    """Raise UserError for a set that nobody can train on or evaluate on."""
    read = sum(manifest.report[source.tag]["documents_read"] for source in config.sources)
    names = ", ".join(source.path for source in config.sources)
    if not manifest.splits[TRAIN]:
        told = "".join(f". {line}" for line in account(manifest.report))
        raise UserError(f"no training document came out of {names} ({read} passed the filters){told}")
    if _lacks_held_out(config, manifest):
        elsewhere = f" and data.name (what is published in {root} stays as it is)" if (root / FILE).exists() else ""
        raise UserError(
            f"none of {read} documents was held out for validation; raise data.held_out_fraction "
            f"({config.held_out_fraction}), or set it to 0 for a set without validation; change it{elsewhere}"
        )


def _lacks_held_out(config: DataConfig, manifest: Manifest) -> bool:
    return config.held_out_fraction > 0 and not manifest.splits[HELD_OUT]


def summary(config: DataConfig, manifest: Manifest, root: Path, progress: Progress) -> str:
    """Return the last lines of a preparation: what was dropped or altered, and what there is now."""
    state = "prepared" if manifest.complete else f"{progress.parts} parts of {progress.total_parts} are prepared"
    ratio = f", {manifest.bytes_per_token(TRAIN):.2f} bytes per token" if manifest.tokens(TRAIN) else ""
    last = (
        f"{config.name}: {state} in {root}: {manifest.tokens(TRAIN) / 1e6:.2f} M training tokens, "
        f"{manifest.tokens(HELD_OUT) / 1e6:.3f} M held out{ratio} "
        f"({progress.text_bytes / 1e6:.1f} MB in {duration(progress.seconds())})"
        f"{altered_share(manifest)}"
    )
    return "\n".join([*(account(manifest.report) if manifest.complete else []), last])
