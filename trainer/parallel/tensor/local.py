"""What this rank holds of a tensor that a library may have spread as a DTensor."""

from __future__ import annotations

from torch import Tensor


def local(tensor: Tensor) -> Tensor:
    """Return this rank's values of a tensor, without its history: the shard of a DTensor, all of a plain tensor.

    A DTensor has no storage of its own, and what is asked of its values is asked of all ranks together. It is known by
    its method here, since to import its class takes a second.
    """
    detached = tensor.detach()
    shard = getattr(detached, "to_local", None)
    return detached if shard is None else shard()  # type: ignore[no-any-return]
