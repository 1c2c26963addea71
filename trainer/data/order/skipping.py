"""Leave out stretches of the data order, such as one before which a loss spike came back twice.

Chowdhery et al. 2022 (PaLM, section 5.1) restart before a spike and skip the batches around it. Ranges are in steps of
the data order, ends left out: `1200:1210` skips ten. Training step s then reads the s-th step that is not skipped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from trainer.contract.errors import UserError

Ranges = tuple[tuple[int, int], ...]


def parse_ranges(texts: Sequence[str]) -> Ranges:
    """Read `1200:1210` and the like, sorted, with what overlaps joined. Raises UserError."""
    found = []
    for text in texts:
        match = re.fullmatch(r"\s*(\d+):(\d+)\s*", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise UserError(f"a range of steps is FIRST:END with FIRST < END, such as 1200:1210, not {text!r}")
        found.append((int(match[1]), int(match[2])))
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return tuple(joined)


def data_step(step: int, skipped: Ranges) -> int:
    """Return the step of the data order that training step `step` reads."""
    for begin, end in skipped:
        if step < begin:
            break
        step += end - begin
    return step


def steps_before(skipped: Ranges) -> float:
    """Return how many steps of a run come before the first stretch left out: they read what all of its seed read."""
    return min((begin for begin, _ in skipped), default=math.inf)


def join_ranges(earlier: Ranges, new: Ranges, step: int) -> Ranges:
    """Return the ranges of a run that goes on at training step `step` with more to skip.

    Raises UserError where a new range begins in what was trained on already: skipping it now would shift the order.
    """
    position = data_step(step, earlier)
    for begin, end in new:
        known = any(b <= begin and end <= e for b, e in earlier)
        if begin < position and not known:
            raise UserError(
                f"steps {begin}:{end} cannot be skipped: the checkpoint at step {step} has read the data up to step "
                f"{position}; go on from a checkpoint at or before {begin}"
            )
    return parse_ranges([f"{begin}:{end}" for begin, end in (*earlier, *new)])
