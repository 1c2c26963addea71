"""From the data section of a configuration to batches: where the set lies, its mixture, packing, order and cache."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from trainer.config.data import TRAIN, DataConfig
from trainer.contract.errors import UserError
from trainer.data.order.mixture import Mixture, Stage
from trainer.data.order.order import Ids, shuffled, shuffled_in_windows
from trainer.data.order.ramp import Ramp
from trainer.data.order.skipping import Ranges, join_ranges
from trainer.data.order.streams import Streams
from trainer.data.read.batches import Batches, Order, Samples, require_samples
from trainer.data.read.packing import PackedSet
from trainer.data.read.transfer import Transfer
from trainer.data.store.cache import ShardCache, is_remote, read_manifest
from trainer.data.store.manifest import Manifest
from trainer.data.store.token_set import MOST_OPEN, TokenSet
from trainer.data.tokenize.tokenizer import check_tokenizer

CHUNKS_PER_WINDOW = 8
SOURCE_SEEDS = 0x5EED


def open_manifest(data: DataConfig) -> Manifest:
    """Read the manifest of the configured set, local or remote. Raises UserError where it is not there or another's."""
    manifest = read_manifest(data.directory) if is_remote(data.root) else Manifest.open(data.directory)
    if manifest.config and manifest.config_hash != data.content_hash():
        raise UserError(
            f"{data.directory} was prepared with another configuration (hash {manifest.config_hash}, this one has "
            f"{data.content_hash()}); give this one another data.name and prepare it"
        )
    if not is_remote(data.root):
        check_tokenizer(data.directory, manifest.tokenizer_hash)
    return manifest


def open_split(data: DataConfig, split: str, manifest: Manifest | None = None) -> TokenSet:
    """Open one split of the configured set; a remote one through the node-local cache."""
    manifest = manifest or open_manifest(data)
    if is_remote(data.root):
        cache = ShardCache(data.directory, manifest, data.cache)
        return TokenSet(manifest, split, cache.fetch, prefetch=cache.prefetch, most_open=maps_within(data, manifest))
    root = Path(data.directory)
    return TokenSet(manifest, split, lambda file: root / file)


def evaluation_sets(data: DataConfig, manifest: Manifest, context_length: int) -> tuple[list[str], list[str]]:
    """Return the names of the sets to evaluate on, and of the parts of sets that are shorter than one sequence.

    Raises UserError for a whole set that is too short: better at the start than at the first evaluation.
    """
    wanted, left_out = [], []
    for name in manifest.evaluation_sets():
        token_set = open_split(data, name, manifest)
        if ":" in name and token_set.num_samples(context_length) == 0:
            left_out.append(name)
        else:
            require_samples(token_set, context_length)
            wanted.append(name)
    return wanted, left_out


def maps_within(data: DataConfig, manifest: Manifest) -> int:
    """Return how many shards may be mapped: a file that was evicted keeps its space on disk while it is mapped."""
    sizes = [shard.tokens for shards in manifest.splits.values() for shard in shards]
    shard_bytes = max(sizes, default=1) * (2 if manifest.dtype == "uint16" else 4)
    return min(MOST_OPEN, max(1, data.cache.max_bytes // shard_bytes))


def masks_documents(data: DataConfig) -> bool:
    """Return whether tokens attend to their own document only, in training, evaluation and decoding alike."""
    return data.confines_documents


def open_batches(
    data: DataConfig,
    *,
    context_length: int,
    sequences_per_step: int,
    micro_batch: int,
    seed: int,
    dp_rank: int = 0,
    dp_size: int = 1,
    total_steps: int | None = None,
    manifest: Manifest | None = None,
    state: dict[str, Any] | None = None,
    skip_steps: Ranges = (),
    transfer: Transfer | None = None,
    ramp: Ramp | None = None,
) -> Batches:
    """Open the training batches of one data rank as the configuration says.

    `state` is that of the checkpoint to go on from: the shards that it knew are the set, whatever was prepared since,
    and its skipped steps stay skipped. Raises UserError where the order of data would not go on, and where
    `repeat: false` forbids a run of `total_steps` steps. What changed and may is in the batches' `changes`.
    """
    manifest = manifest or open_manifest(data)
    if state is not None:
        manifest = manifest.prefix(state["shards"])
        skip_steps = join_ranges(tuple((a, b) for a, b in state["skipped"]), skip_steps, state["step"])
    samples: Samples = open_split(data, TRAIN, manifest)
    if data.packing == "best_fit":
        assert isinstance(samples, TokenSet)
        samples = PackedSet(samples, context_length, None if is_remote(data.root) else Path(data.directory, "packing"))
    require_samples(samples, context_length)
    order = make_order(data, samples, context_length, seed, lanes=sequences_per_step)
    batches = Batches(
        samples,
        context_length=context_length,
        sequences_per_step=sequences_per_step,
        micro_batch=micro_batch,
        seed=seed,
        dp_rank=dp_rank,
        dp_size=dp_size,
        order=order,
        skipped=skip_steps,
        documents=masks_documents(data),
        transfer=transfer,
        ahead_steps=data.cache.ahead_steps if is_remote(data.root) else 0,
        shuffle_window=data.shuffle_window,
        ramp=ramp,
    )
    if state is not None:
        batches.check_state(state)
    if total_steps is not None and not data.repeat:
        refuse_repeats(batches, total_steps)
    return batches


def make_order(data: DataConfig, samples: Samples, context_length: int, seed: int, *, lanes: int) -> Order:
    """Return the map from positions of the run to samples: a shuffled pool, a mixture of shuffled sources, or lanes."""
    pools = [int(n) for n in samples.pool_samples(context_length)]
    if data.order == "streams":
        return Streams(pools, lanes, seed)

    def inside(number: int, size: int, indices: Ids) -> Ids:
        own_seed = seed + SOURCE_SEEDS * number
        if data.shuffle_window is None:
            return shuffled(indices, size, own_seed)
        window = max(1, data.shuffle_window // context_length)
        return shuffled_in_windows(indices, size, own_seed, window, max(1, window // CHUNKS_PER_WINDOW))

    if data.sources[0].weight is None:
        total = sum(pools)
        return lambda indices: inside(0, total, indices)
    tags = {source.tag: source.weight for source in data.sources}
    if missing := set(tags) - set(samples.sources):
        raise UserError(f"source {min(missing)!r} of the mixture has no training documents in {data.directory}")
    first = {tag: float(weight or 0) for tag, weight in tags.items()}
    stages = [(0, first), *((math.ceil(s.from_tokens / context_length), s.weights) for s in data.stages)]
    return Mixture(
        pools,
        [Stage(begin, tuple(weights.get(tag, 0.0) for tag in samples.sources)) for begin, weights in stages],
        seed,
        lambda number, indices: inside(number, pools[number], indices),
        names=samples.sources,
    )


def refuse_repeats(batches: Batches, total_steps: int) -> None:
    """Raise UserError where a run reads a sample twice."""
    for name, passes in batches.epochs(total_steps).items():
        if passes > 1:
            raise UserError(
                f"{total_steps} steps read {name} {passes:.2f} times, and data.repeat is false; "
                f"shorten the run, prepare more text, or allow repeats"
            )
