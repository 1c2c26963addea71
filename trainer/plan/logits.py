"""How many logits exist at a time. Free of torch: the plan counts them, and the head keeps to it.

Logits that are not held are made in chunks, and made again in the backward pass: a fourth product of the head, and
arithmetic in kernels of its own, for memory. The narrower a model, the larger the part of its step that is the head's,
and the more memory a GPU has left: 2^30 logits are 16 sequences of 1,024 tokens with GPT-2's vocabulary, 4 GiB in
float32.
"""

from __future__ import annotations

MOST_LOGITS, MOST_OF_NARROW_ON_GPU = 1 << 27, 1 << 30
NARROW = 1600  # that of GPT-2 XL. Wider ones were trained where whole logits leave no room (benchmarks.published)
CHUNK_ON_GPU = 1 << 27
CHUNK_ON_CPU = 1 << 18  # enough to fill the processor, few enough to stay in its cache


def chunked(logits: int, *, width: int, gpu: bool) -> bool:
    """Return whether so many logits of a head that reads `width` values are made in chunks."""
    return logits > (MOST_OF_NARROW_ON_GPU if gpu and width <= NARROW else MOST_LOGITS)


def chunk_of_logits(*, gpu: bool) -> int:
    """Return how many of them are worked on at a time."""
    return CHUNK_ON_GPU if gpu else CHUNK_ON_CPU
