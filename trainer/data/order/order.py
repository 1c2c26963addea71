"""The order of training samples: a pure function of (seed, index), with no state and no memory.

Sample number g of a run is sample permutation_of_epoch(g mod N) of the set, with epoch g div N. The permutation is
computed on the fly for the indices that are asked for: a generalised Feistel network (Luby and Rackoff 1988) over a
table of about sqrt(N) rows and columns, walked along its cycle in the rare case that it leaves [0, N) (Black and
Rogaway 2002, sections 4 and 5). So any position is reached in the same
time, the set may have any size, and neither ranks nor workers nor the length of the run can change the order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.contract.errors import UserError

Ids = npt.NDArray[np.int64]
_U = npt.NDArray[np.uint64]
ROUNDS = 8
_ONE = np.uint64(1)


def rank_indices(begin: int, sequences: int, dp_rank: int, dp_size: int) -> Ids:
    """Return what one data rank reads of a step that has so many sequences from `begin` on in the global order.

    The ranks hold consecutive stretches: put together in rank order they are the step's, whatever `dp_size` is. Raises
    UserError where the ranks cannot share the step equally.
    """
    if sequences % dp_size:
        raise UserError(
            f"{sequences} sequences per step cannot be shared equally by {dp_size} data ranks; "
            f"change batch.tokens_per_step or the data-parallel degree"
        )
    assert 0 <= dp_rank < dp_size
    share = sequences // dp_size
    return np.arange(begin + dp_rank * share, begin + (dp_rank + 1) * share, dtype=np.int64)


def shuffled(indices: Ids, num_samples: int, seed: int) -> Ids:
    """Map positions of the endless order to samples: each stretch of `num_samples` holds each sample once."""
    if num_samples < 1:
        raise UserError("there is no sample to read: the set is shorter than one sequence of the model")
    return permute(indices % num_samples, num_samples, stream_keys(seed, indices // num_samples))


def shuffled_in_windows(indices: Ids, num_samples: int, seed: int, window: int, chunk: int) -> Ids:
    """Like `shuffled`, but near in the order means near on disk: for sets that are larger than the local cache.

    Chunks of `chunk` neighbouring samples are shuffled, and samples are shuffled within windows of so many of these
    chunks that a window has about `window` samples. Samples of the last, shorter chunk end each epoch.
    """
    chunk = min(chunk, num_samples)
    per_window = max(1, window // chunk)
    num_chunks = num_samples // chunk
    epoch, position = indices // num_samples, indices % num_samples
    length = per_window * chunk
    whole = num_chunks * chunk // length * length
    window_of = np.minimum(position // length, max(0, whole // length))
    start = window_of * length
    size = np.where(position < whole, length, num_samples - whole)
    keys = stream_keys(seed, epoch, window_of + 1)
    shuffled_position = start + permute(position - start, size, keys)
    chunk_of = shuffled_position // chunk
    inside = chunk_of < num_chunks
    place = permute(np.where(inside, chunk_of, 0), num_chunks, stream_keys(seed, epoch))
    return np.where(inside, place * chunk + shuffled_position % chunk, shuffled_position)


def stream_keys(seed: int, *numbers: int | Ids) -> _U:
    """Return a key for each combination of the seed and the numbers, as good as random. Shape: that of the numbers."""
    with np.errstate(over="ignore"):  # NumPy warns of wrap-around for single numbers only
        key = _mix(np.asarray(seed & (2**64 - 1), dtype=np.uint64))
        for number in numbers:
            key = _mix(key ^ _mix(np.asarray(number).astype(np.uint64)))
    return np.asarray(key, dtype=np.uint64)


def permute(values: Ids, size: int | Ids, keys: _U) -> Ids:
    """Return the images of `values` under the pseudo-random permutation of [0, size) that each key names.

    All values with one key and one size are mapped one to one. `size` and `keys` broadcast to the shape of `values`.
    """
    size = np.asarray(size, dtype=np.int64)
    sides = np.ceil(np.sqrt(size)).astype(np.int64)
    rows = np.broadcast_to(sides.astype(np.uint64), values.shape)
    columns = np.broadcast_to((-(-size // sides)).astype(np.uint64), values.shape)
    limit, keys = np.broadcast_to(size.astype(np.uint64), values.shape), np.broadcast_to(keys, values.shape)
    result = _feistel(values.astype(np.uint64), keys, rows, columns)
    outside = np.flatnonzero(result >= limit)
    while outside.size:  # rarely: rows * columns is hardly more than size
        result[outside] = _feistel(result[outside], keys[outside], rows[outside], columns[outside])
        outside = outside[result[outside] >= limit[outside]]
    return result.astype(np.int64)


def _feistel(values: _U, keys: _U, rows: _U, columns: _U) -> _U:
    """Permute the places of a table: row and column take turns in moving each other, modulo their numbers."""
    row, column = np.divmod(values, columns)
    for turn in range(ROUNDS):
        round_key = keys + np.uint64((turn + 1) * 0x9E3779B97F4A7C15 & (2**64 - 1))
        if turn % 2 == 0:
            row = (row + (_mix(column ^ round_key) >> _ONE)) % rows
        else:
            column = (column + (_mix(row ^ round_key) >> _ONE)) % columns
    placed: _U = row * columns + column
    return placed


def _mix(x: _U) -> _U:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014), with wrap-around."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: _U = x ^ (x >> np.uint64(31))
    return mixed
