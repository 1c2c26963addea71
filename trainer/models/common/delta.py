"""The gated delta rule S[t] = exp(a[t]) (I - b[t] k[t] k[t]') S[t-1] + b[t] k[t] v[t]', y[t] = q[t] S[t], in chunks.

What a chunk's tokens write depends on what those before them wrote: a triangular system for each chunk (Yang et al.
2024, arXiv 2406.06484, section 3; with decays Yang et al. 2025, arXiv 2412.06464, section 3.3).

Shapes: B batch, T tokens, H heads, N width of queries and keys, P width of values, M chunks, C tokens of a chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.common.chunks import borders, each_chunk, in_chunks
from trainer.plan.shape import CHUNK


def delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    strength: Tensor,
    log_decay: Tensor,
    first: Tensor | None,
    initial: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the outputs (B, T, H, P) and the last S (B, H, N, P).

    `query` and `key` are (B, T, H, N), keys of length 1; `value` is (B, T, H, P); `strength` (B, T, H) lies between 0
    and 1, `log_decay` (B, T, H) is at most 0. `first` and `initial` are as in `chunked_recurrence`.
    """
    B, T, H, P = value.shape
    C = min(CHUNK, T)
    M = -(-T // C)
    padded = M * C - T  # tokens that write nothing and let nothing decay
    query, key, value = (in_chunks(F.pad(x, (0, 0, 0, 0, 0, padded)), M) for x in (query, key, value))
    strength, log_decay = (in_chunks(F.pad(x, (0, 0, 0, padded)), M) for x in (strength, log_decay))
    total = log_decay.cumsum(-1)  # (B, M, H, C)
    seen = torch.ones(C, C, dtype=torch.bool, device=value.device).tril()
    decay, left, whole = total.exp(), (total[..., -1:] - total).exp(), total[..., -1].exp()
    if first is not None:
        ends = borders(F.pad(first, (0, padded)), M)
        seen = seen & ends.pairs[:, :, None]
        decay, left = decay * ends.before[:, :, None], left * ends.after[:, :, None]
        whole = whole * ends.through[..., None]
    between = (total[..., :, None] - total[..., None, :]).masked_fill(~seen, -torch.inf).exp()
    strong = key * strength[..., None]
    overlap = (strong @ key.transpose(-1, -2) * between).tril(-1)
    unit = torch.eye(C, dtype=overlap.dtype, device=overlap.device)
    written = torch.cat([value * strength[..., None], strong * decay[..., None]], dim=-1)
    solved = torch.linalg.solve_triangular(overlap + unit, written, upper=False, unitriangular=True)
    own, erased = solved.split([P, key.shape[-1]], dim=-1)
    scores = query @ key.transpose(-1, -2) * between
    reading, kept = query * decay[..., None], (key * left[..., None]).transpose(-1, -2)
    S = torch.zeros_like(kept[:, 0] @ own[:, 0]) if initial is None else initial
    outputs = []
    for own_m, erased_m, reading_m, scores_m, whole_m, kept_m in each_chunk(
        own, erased, reading, scores, whole[..., None, None], kept
    ):
        new = own_m - erased_m @ S
        outputs.append(reading_m @ S + scores_m @ new)
        S = whole_m * S + kept_m @ new
    y = torch.stack(outputs, dim=1)  # (B, M, H, C, P)
    return y.transpose(2, 3).reshape(B, M * C, H, P)[:, :T], S
