"""The recurrence S[t] = exp(a[t]) S[t-1] + k[t] v[t]' with outputs y[t] = q[t] S[t], in chunks instead of steps.

This is gated linear attention, and the state-space duality of Mamba-2 (Dao and Gu 2024, arXiv 2405.21060, section 6):
inside a chunk it is masked attention, between chunks one step of the recurrence for each. All decays are exponentials
of sums of a <= 0, so none is above 1.

Shapes: B batch, T tokens, H heads, N width of queries and keys, P width of values, M chunks, C tokens of a chunk. G is
H, or 1 where all heads share queries and keys; their arrays then have no dimension of heads inside chunks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.common.chunks import Borders, borders, each_chunk
from trainer.plan.shape import CHUNK


def chunked_recurrence(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, first: Tensor | None, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the outputs (B, T, H, P) and the last S (B, H, N, P).

    `query` and `key` are (B, T, G, N), `value` (B, T, H, P), `log_decay` (B, T, H) is at most 0. `first` (B, T) says
    which tokens begin a document, where S is 0. `initial` (B, H, N, P) is what was before, by default 0.
    """
    B, T, H, P = value.shape
    C = min(CHUNK, T)
    M = -(-T // C)
    if M * C != T:  # padding neither decays nor adds
        query, key, value = (F.pad(x, (0, 0, 0, 0, 0, M * C - T)) for x in (query, key, value))
        log_decay = F.pad(log_decay, (0, 0, 0, M * C - T))
        first = None if first is None else F.pad(first, (0, M * C - T))
    query, key, value = (x.view(B, M, C, *x.shape[2:]) for x in (query, key, value))
    if query.shape[3] == 1:
        query, key = query.squeeze(3), key.squeeze(3)
    total = log_decay.view(B, M, C, H).transpose(2, 3).cumsum(-1)  # (B, M, H, C)
    ends = None if first is None else borders(first, M)
    inside = _inside(query, key, value, total, ends)
    entering, last = _between(key, value, total, ends, initial)
    decay = total.exp()
    if ends is not None:
        decay = decay * ends.before[:, :, None]
    earlier = torch.einsum("bmcn,bmhnp->bmchp" if query.dim() == 4 else "bmchn,bmhnp->bmchp", query, entering)
    y = torch.addcmul(inside, earlier, decay.transpose(2, 3)[..., None])
    return y.reshape(B, M * C, H, P)[:, :T], last


def _inside(query: Tensor, key: Tensor, value: Tensor, total: Tensor, ends: Borders | None) -> Tensor:
    """Return what the tokens of a chunk give each other, (B, M, C, H, P)."""
    C = total.shape[-1]
    seen = torch.ones(C, C, dtype=torch.bool, device=total.device).tril()
    if ends is not None:
        seen = seen & ends.pairs[:, :, None]
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(~seen, -torch.inf).exp()
    if query.dim() == 4:
        scores = (query @ key.transpose(-1, -2))[:, :, None]
    else:
        scores = torch.einsum("bmihn,bmjhn->bmhij", query, key)
    return torch.einsum("bmhij,bmjhp->bmihp", scores * decay, value)


def _between(
    key: Tensor, value: Tensor, total: Tensor, ends: Borders | None, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return S before each chunk, (B, M, H, N, P), and after the last one."""
    left = (total[..., -1:] - total).exp()  # of each token at the end of its chunk
    whole = total[..., -1].exp()  # (B, M, H)
    if ends is not None:
        left, whole = left * ends.after[:, :, None], whole * ends.through[..., None]
    weighted = value * left.transpose(2, 3)[..., None]
    added = torch.einsum("bmcn,bmchp->bmhnp" if key.dim() == 4 else "bmchn,bmchp->bmhnp", key, weighted)
    S = torch.zeros_like(added[:, 0]) if initial is None else initial
    entering = []
    for added_m, whole_m in each_chunk(added, whole[..., None, None]):
        entering.append(S)
        S = torch.addcmul(added_m, whole_m, S)
    return torch.stack(entering, dim=1), S
