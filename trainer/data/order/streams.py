"""Streams: each lane of the batch reads one contiguous stretch of the tokens, segment after segment, with no state.

The samples of all sources, one after the other, are a ring of N segments. In epoch e it is cut at a place that
(seed, e) picks, and each of the L lanes of a step gets a stretch of N // L segments. So segment k of lane l in epoch e
is number (cut[e] + l (N // L) + k) mod N: a pure function of step and lane. Up to L - 1 segments before the cut are
left out, others in each epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.contract.errors import UserError
from trainer.data.order.order import Ids, stream_keys

_EPOCHS = 0x57EA  # sets the keys of cuts apart from those of permutations


class Streams:
    """The order of a run in lanes. Position step * lanes + lane of the run is the segment of that lane in that step.

    `pool_samples` are the segments of each source. Raises UserError where lanes are more than segments.
    """

    def __init__(self, pool_samples: Sequence[int], lanes: int, seed: int) -> None:
        self.samples, self.lanes, self.seed = int(sum(pool_samples)), lanes, seed
        self.length = self.samples // lanes  # segments of a lane in one epoch, and its steps
        if self.length == 0:
            raise UserError(
                f"data.order streams needs a segment for each of the {lanes} lanes (sequences per step), and the set "
                f"has {self.samples}: lower batch.tokens_per_step or model.context_length, or prepare more text"
            )
        self._source_begins = np.cumsum([0, *pool_samples[:-1]])

    def __call__(self, indices: Ids) -> Ids:
        """Return the segments at positions of the run."""
        step, lane = np.divmod(indices, self.lanes)
        epoch, place = np.divmod(step, self.length)
        cut = (stream_keys(self.seed, _EPOCHS, epoch) % np.uint64(self.samples)).astype(np.int64)
        segments: Ids = (cut + lane * self.length + place) % self.samples
        return segments

    def begins(self, step: int, before: int | None, lanes: Ids) -> npt.NDArray[np.bool_]:
        """Return which lanes do not go on in `step` where they were in step `before` (None: nothing was read).

        That is at the beginning of an epoch, of a source, and of the ring, and behind steps that were skipped.
        """
        if before is None or step // self.length != before // self.length:
            return np.ones(len(lanes), dtype=np.bool_)
        now, then = self(step * self.lanes + lanes), self(before * self.lanes + lanes)
        anew: npt.NDArray[np.bool_] = (now != then + 1) | np.isin(now, self._source_begins)
        return anew

    def epochs(self, step: int) -> float:
        """Return how many epochs the first `step` steps are."""
        return step / self.length
