"""Which checkpoints stay. A pure rule, applied after each save."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def steps_to_delete(
    steps: Iterable[int], *, keep_last: int, keep_every: int | None, keep_at: Collection[int] = ()
) -> list[int]:
    """Return the steps whose checkpoints go: all but the newest `keep_last`, multiples of `keep_every` and `keep_at`.

    The newest always stays.
    """
    ordered = sorted(set(steps), reverse=True)
    kept = {*ordered[: max(keep_last, 1)], *keep_at}
    return [step for step in ordered if step not in kept and not (keep_every and step % keep_every == 0)]
