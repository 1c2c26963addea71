"""Batches: the tokens of one data rank in one optimizer step, as tensors. Any step is reached in the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from trainer.contract.errors import UserError
from trainer.data.order.continuing import ORDER_VERSION, check_order
from trainer.data.order.mixture import Mixture
from trainer.data.order.order import Ids, rank_indices, shuffled
from trainer.data.order.ramp import Ramp
from trainer.data.order.skipping import Ranges, data_step
from trainer.data.order.streams import Streams
from trainer.data.read.packed_targets import PackedTargets
from trainer.data.read.packing import VERSION as PACKING_VERSION
from trainer.data.read.packing import PackedSet
from trainer.data.read.transfer import Moving, Transfer
from trainer.data.store.manifest import Manifest
from trainer.data.store.token_set import Arrays, TokenSet


class Samples(Protocol):
    """What batches are read from: a TokenSet or a PackedSet."""

    manifest: Manifest
    split: str
    sources: list[str]

    def num_samples(self, context_length: int) -> int:
        """Return how many sequences of `context_length` tokens there are."""

    def pool_samples(self, context_length: int) -> npt.NDArray[np.int64]:
        """Return the number of samples of each source, in the order of the sources."""

    def arrays(self, sample_ids: Ids, context_length: int, *, documents: bool = False) -> Arrays:
        """Return the inputs, targets and what belongs to them of these samples."""

    def prefetch(self, sample_ids: Ids, context_length: int) -> None:
        """Begin to read these samples, without waiting for them."""


Order = Callable[[Ids], Ids]  # positions in the global order -> samples


@dataclass(frozen=True)
class MicroBatch:
    """B sequences of T tokens. Target t is the token after input t.

    `weights` scale each target's loss (None: all 1). `documents` number the documents within each sequence, for
    attention that stays inside a document. Where lanes read streams, `begins` says which sequences do not follow those
    of the step before, and the numbers of documents go on from one step to the next.
    """

    inputs: torch.Tensor  # (B, T) int64
    targets: torch.Tensor  # (B, T) int64
    weights: torch.Tensor | None = None  # (B, T) float32
    documents: torch.Tensor | None = None  # (B, T) int32
    begins: torch.Tensor | None = None  # (B) bool


class Batches:
    """The training batches of one data rank, addressed by optimizer step.

    The rank's share of a step is given in micro-batches of `micro_batch` sequences (the last may be smaller).
    `order` maps positions of the run to samples; by default the whole split is shuffled anew in each epoch.
    `ramp` says how many sequences each step has; by default all have `sequences_per_step`.
    `prefetch` coming steps are read in a background thread, and copied to a device from there with a `transfer`.
    `shuffle_window` is noted in checkpoints.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        context_length: int,
        sequences_per_step: int,
        micro_batch: int,
        seed: int,
        dp_rank: int = 0,
        dp_size: int = 1,
        order: Order | None = None,
        skipped: Ranges = (),
        documents: bool = False,
        prefetch: int = 2,
        transfer: Transfer | None = None,
        ahead_steps: int = 0,
        shuffle_window: int | None = None,
        ramp: Ramp | None = None,
    ) -> None:
        self.samples, self.context_length, self.seed = samples, context_length, seed
        self.sequences_per_step, self.micro_batch = sequences_per_step, micro_batch
        self.ramp = ramp or Ramp(sequences_per_step)
        self.dp_rank, self.dp_size = dp_rank, dp_size
        self.documents, self.prefetch, self.transfer = documents, prefetch, transfer
        self.num_samples = require_samples(samples, context_length)
        self.order: Order = order or (lambda indices: shuffled(indices, self.num_samples, seed))
        rank_indices(0, sequences_per_step, dp_rank, dp_size)  # refuses a step that the ranks cannot share
        self.skipped, self.ahead_steps, self.shuffle_window = skipped, ahead_steps, shuffle_window
        self.changes: list[str] = []  # in what determines the order, since the checkpoint that the run goes on from
        self._ahead: dict[int, Future[list[MicroBatch] | Moving]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches") if prefetch else None
        self._lock = threading.Lock()
        self._fetched = 0  # steps before this one were handed to the cache

    def sample_ids(self, step: int) -> Ids:
        """Return the samples of this rank in step `step`. Shape (sequences of the step / dp_size,)."""
        step = data_step(step, self.skipped)
        return self.order(rank_indices(self.ramp.before(step), self.ramp.at(step), self.dp_rank, self.dp_size))

    def step(self, step: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of optimizer step `step` (0-based)."""
        if self._pool is None:
            return self._arrived(self._read(step))
        future = self._ahead.pop(step, None)
        if future is None:  # a seek: what was read ahead for another place is of no use, and this step comes first
            for other in self._ahead.values():
                other.cancel()
            self._ahead.clear()
            batches = self._read(step)
        for coming in range(step + 1, step + 1 + self.prefetch):
            if coming not in self._ahead:
                self._ahead[coming] = self._pool.submit(self._read, coming)
        return self._arrived(future.result() if future else batches)

    def _arrived(self, batches: list[MicroBatch] | Moving) -> list[MicroBatch]:
        if isinstance(batches, Moving):
            assert self.transfer is not None
            return self.transfer.arrived(batches)
        return batches

    def skip(self, skipped: Ranges) -> None:
        """Leave these steps of the order out from now on, in place of those that were left out so far."""
        for future in self._ahead.values():  # what was read ahead is of another order
            future.cancel()
        with self._lock:
            self._ahead.clear()
            self.skipped, self._fetched = skipped, 0

    def close(self) -> None:
        """End the background thread."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def epochs(self, step: int) -> dict[str, float]:
        """Return how many times each source (or the whole split) was read before step `step`."""
        samples = self.ramp.before(data_step(step, self.skipped))
        if isinstance(self.order, Mixture):
            mixture, counts = self.order, self.order.counts(samples)
            return {n: float(c / p) for n, c, p in zip(mixture.names, counts, mixture.pool_samples, strict=True)}
        if isinstance(self.order, Streams):
            return {self.samples.split: self.order.epochs(data_step(step, self.skipped))}
        return {self.samples.split: samples / self.num_samples}

    def ended_passes(self, step: int) -> dict[str, int]:
        """Return the sources (or the split) of which the last of `step` steps ended a pass, and how many are ended."""
        before, after = self.epochs(step - 1), self.epochs(step)
        return {name: int(passes) for name, passes in after.items() if int(passes) > int(before[name])}

    def state(self, step: int) -> dict[str, object]:
        """Return what a checkpoint must hold to go on exactly after `step` steps (see order/continuing.py)."""
        mixture = self.order if isinstance(self.order, Mixture) else None
        packed = isinstance(self.samples, PackedSet)
        return {
            "step": step,
            "samples": self.ramp.before(data_step(step, self.skipped)),
            "epochs": self.epochs(step),
            "skipped": [list(pair) for pair in self.skipped],
            "data_hash": self.samples.manifest.data_hash,
            "seed": self.seed,
            "context_length": self.context_length,
            "sequences_per_step": self.sequences_per_step,
            "order": {
                "version": ORDER_VERSION,
                "packing": "best_fit" if packed else "concatenate",
                "packing_version": PACKING_VERSION if packed else None,
                "shuffle_window": self.shuffle_window,
                "mixture": mixture.shares() if mixture else None,
                **({"streams": True} if isinstance(self.order, Streams) else {}),
                **({"batch_warmup": [list(stage) for stage in self.ramp.stages]} if self.ramp.stages else {}),
            },
            "document_mask": self.documents,
            "shards": {name: len(shards) for name, shards in self.samples.manifest.splits.items()},
        }

    def check_state(self, state: dict[str, Any]) -> None:
        """Raise UserError where a checkpoint's state does not belong to these batches; note what else changed."""
        self.changes = check_order(state, self.state(int(state["step"])))

    def left_out(self) -> dict[str, int]:
        """Return the tokens of each source of which nothing is read, because it is shorter than one sequence."""
        manifest, split = self.samples.manifest, self.samples.split
        counts = zip(self.samples.sources, self.samples.pool_samples(self.context_length), strict=True)
        return {name: manifest.tokens(f"{split}:{name}") for name, count in counts if count == 0}

    def _read(self, step: int) -> list[MicroBatch] | Moving:
        with self._lock:
            if self.ahead_steps:
                self._fetch_ahead(step)
            arrays = self._arrays(step)
        share = self.ramp.at(data_step(step, self.skipped)) // self.dp_size
        parts = (slice(begin, begin + self.micro_batch) for begin in range(0, share, self.micro_batch))
        batches = [to_micro_batch(arrays, rows) for rows in parts]
        return batches if self.transfer is None else self.transfer.begin(batches)

    def _arrays(self, step: int) -> Arrays:
        ids = self.sample_ids(step)
        if not isinstance(self.order, Streams):
            return self.samples.arrays(ids, self.context_length, documents=self.documents)
        assert isinstance(self.samples, TokenSet)
        share = self.sequences_per_step // self.dp_size
        lanes = self.dp_rank * share + np.arange(share)
        before = data_step(step - 1, self.skipped) if step else None
        begins = self.order.begins(data_step(step, self.skipped), before, lanes)
        return self.samples.segments(ids, self.context_length, begins, documents=self.documents)

    def _fetch_ahead(self, step: int) -> None:
        """Let remote shards come before they are needed: all of the next steps first, then one step at a time."""
        upto = step + self.ahead_steps
        for coming in range(max(step, self._fetched), upto + 1):
            self.samples.prefetch(self.sample_ids(coming), self.context_length)
        self._fetched = max(self._fetched, upto + 1)


def held_out(
    token_set: TokenSet,
    context_length: int,
    tokens: int,
    micro_batch: int,
    dp_rank: int = 0,
    dp_size: int = 1,
    *,
    documents: bool = False,
    packed: bool = False,
) -> Iterator[MicroBatch]:
    """Yield one data rank's share of the evaluation sequences: about `tokens` targets, spread evenly over the split.

    The targets depend on `tokens` and `context_length` only. What each of them sees is what training shows it:
    `documents` keeps attention inside a document, `packed` lays the documents out whole (see `PackedTargets`). Over all
    ranks each target comes exactly once, every rank gets the same number of batches of the same shape, and rows that
    only fill a batch up have weight 0.
    """
    ids = evaluated_segments(token_set, context_length, tokens)
    packing = PackedTargets(token_set, ids, context_length) if packed else None
    rows = len(packing) if packing else len(ids)
    for number in range(-(-rows // (micro_batch * dp_size))):
        places = (number * dp_size + dp_rank) * micro_batch + np.arange(micro_batch)
        mine = np.minimum(places, rows - 1)
        arrays = packing.arrays(mine) if packing else token_set.arrays(ids[mine], context_length, documents=documents)
        weights = np.ones(arrays.targets.shape, np.float32) if arrays.weights is None else arrays.weights
        weights[places >= rows] = 0.0
        yield to_micro_batch(replace(arrays, weights=weights))


def evaluated_segments(token_set: TokenSet, context_length: int, tokens: int) -> Ids:
    """Return the samples whose targets an evaluation is the mean of: about `tokens`, spread evenly over the split."""
    available = require_samples(token_set, context_length)
    count = min(available, max(1, -(-tokens // context_length)))
    return np.arange(count, dtype=np.int64) * available // count


def require_samples(samples: Samples, context_length: int) -> int:
    """Return the number of samples. Raises UserError where there is none."""
    found = samples.num_samples(context_length)
    if found == 0:
        manifest, split = samples.manifest, samples.split
        raise UserError(
            f"split {split!r} of {manifest.name!r} has {manifest.tokens(split)} tokens, fewer than one sequence of "
            f"{context_length} and its next token; shorten model.context_length or prepare more text"
        )
    return found


def to_micro_batch(arrays: Arrays, rows: slice = slice(None)) -> MicroBatch:
    """Return some rows as tensors of the types that models take. They may share memory with each other.

    NumPy converts what must be: for so few values torch would wake its threads, which costs more than the conversion.
    """

    def tensor(values: npt.NDArray, dtype: npt.DTypeLike) -> torch.Tensor:
        return torch.from_numpy(values[rows].astype(dtype, copy=False))

    weights, documents, begins = arrays.weights, arrays.documents, arrays.begins
    return MicroBatch(
        inputs=tensor(arrays.inputs, np.int64),
        targets=tensor(arrays.targets, np.int64),
        weights=None if weights is None else tensor(weights, np.float32),
        documents=None if documents is None else tensor(documents, np.int32),
        begins=None if begins is None else tensor(begins, np.bool_),
    )
