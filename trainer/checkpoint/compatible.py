"""Whether a run may go on from a checkpoint: same model, optimizer, tokenizer and data. Free of torch.

A launcher asks before it starts ranks, and each rank asks again for the checkpoint that it really takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.search import newest_sound, root_of, sizes_problem
from trainer.config.model import ModelConfig
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.data.store.manifest import Manifest as DataManifest


def identity_of(data: DataManifest) -> dict[str, str]:
    """Return what a checkpoint keeps of the data, beside the position in them."""
    return {"tokenizer": data.tokenizer_hash}


def check_start(config: RunConfig, data: DataManifest, own: Path) -> None:
    """Raise `UserError` where the run could not go on from the newest checkpoint that it would find.

    `own` is the run's directory of checkpoints. Reads manifests and sizes: whether files are sound, ranks find out.
    """
    source = root_of(Path(config.checkpoint.source)) if config.checkpoint.source else None
    for root in (own, source) if config.checkpoint.load != "never" else ():
        found = newest_sound(root, sizes_problem) if root else None
        if found is None or found.checkpoint is None or found.manifest is None:
            continue
        checkpoint, manifest = found.checkpoint, found.manifest
        weights_only = config.checkpoint.load == "warm_start" and root == source
        check_identity(manifest, checkpoint, identity_of(data), config.model)
        check_architecture(manifest, checkpoint, config.model, weights_only=weights_only)
        if not weights_only:
            check_optimizer(manifest, checkpoint, config.optim.name)
            check_data(manifest, checkpoint, data)
            check_lanes(manifest, checkpoint, config)
        return


def check_identity(manifest: Manifest, checkpoint: Path, identity: Mapping[str, str], model: ModelConfig) -> None:
    """Raise `UserError` where the checkpoint belongs to another tokenizer: its token ids mean other words."""
    theirs: dict[str, str] = manifest.state.get("identity", {})
    for name, mine in identity.items():
        if theirs.get(name, mine) != mine:
            raise UserError(
                f"{checkpoint} was trained with another {name}: {theirs[name]}, with a vocabulary of "
                f"{manifest.architecture.get('vocab_size')}, there; {mine}, with {model.vocab_size}, here. Point the "
                "run at the same one, or start a run of its own"
            )


def check_architecture(manifest: Manifest, checkpoint: Path, model: ModelConfig, *, weights_only: bool = False) -> None:
    """Raise `UserError` where the checkpoint is of another model.

    A warm start may change what no parameter depends on. It may also state the embedding's rows in other words, as
    imported models do, whose padding is not known.
    """
    mine, theirs = model.architecture(), manifest.architecture
    free = [*model.free_on_warm_start()] if weights_only else []
    if weights_only and _rows(mine) == _rows(theirs):
        free += ["vocab_size", "vocab_multiple_of"]
    different = [
        f"{key} is {theirs.get(key)!r} there and {mine.get(key)!r} here"
        for key in sorted({*mine, *theirs})
        if mine.get(key) != theirs.get(key) and key not in free
    ]
    if different:
        raise UserError(f"{checkpoint} is of another model: {'; '.join(different)}")


def _rows(architecture: Mapping[str, Any]) -> int | None:
    size, multiple = architecture.get("vocab_size"), architecture.get("vocab_multiple_of", 1)
    return None if size is None else -(-size // multiple) * multiple


def check_optimizer(manifest: Manifest, checkpoint: Path, mine: str) -> None:
    """Raise `UserError` where another optimizer wrote the checkpoint."""
    theirs = manifest.optimizer.get("name")
    if mine != theirs:
        raise UserError(
            f"{checkpoint} was written with the optimizer {theirs}, this run uses {mine}: set optim.name to {theirs}, "
            "or checkpoint.load to warm_start to begin with its weights alone"
        )


def lanes_of(config: RunConfig) -> dict[str, int]:
    """Return what a checkpoint notes of the lanes whose states it has, beside the number of data ranks."""
    return {"lanes": config.batch.tokens_per_step // config.model.context_length, "tensor": config.parallel.tensor}


def check_lanes(manifest: Manifest, checkpoint: Path, config: RunConfig) -> None:
    """Raise `UserError` where a run that carries states could not go on with those of the checkpoint."""
    if not config.model.carries:
        return
    theirs, mine = manifest.state.get("carried"), lanes_of(config)
    anew = "begin anew from its weights (checkpoint.load: warm_start and checkpoint.source)"
    if theirs is None:
        raise UserError(f"{checkpoint} has no states of lanes, with which model.carry would go on: {anew}")
    for key, word in (("lanes", "lanes (sequences per step)"), ("tensor", "tensor ranks")):
        if theirs[key] != mine[key]:
            raise UserError(
                f"{checkpoint} has the states of its lanes for {theirs[key]} {word}, and this run has {mine[key]}: go "
                f"on with {theirs[key]}, or {anew}"
            )


def check_data(manifest: Manifest, checkpoint: Path, data: DataManifest) -> None:
    """Raise `UserError` where the order of data would not go on. Shards that were added since change nothing."""
    state = manifest.state.get("data")
    if not state:
        return
    known = data.prefix(state["shards"])
    if known.data_hash != state["data_hash"]:
        raise UserError(
            f"{checkpoint} was trained on other data: hash {state['data_hash']} there; {known.data_hash}, of "
            f"{known.tokens('train'):,} training tokens in {data.name!r}, here. Use the data that it was trained on, "
            "or begin anew from its weights (checkpoint.load: warm_start and checkpoint.source)"
        )
