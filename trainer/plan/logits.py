"""How many logits exist at a time. Free of torch: the plan counts them, and the head keeps to it."""

from __future__ import annotations

# More than this are never held at once (half a gigabyte in float32): they are made in chunks, and made again.
MOST_LOGITS = 1 << 27
# Worked on at a time on a CPU: enough to fill the processor, few enough to stay in its cache.
CPU_LOGITS = 1 << 18
