"""The matrix memory of an mLSTM, whose input gates are exponentials, in chunks (Beck et al. 2024, arXiv 2405.04517,
section 2.3 and appendix B.1; chunks as in Beck et al. 2025, arXiv 2503.14376).

S[t] = f[t] S[t-1] + i[t] k[t] v[t]', n[t] = f[t] n[t-1] + i[t] k[t], y[t] = q[t] S[t] / max(|q[t] n[t]|, 1).
Numbers are kept as multiples of exp(m), with m the largest exponent so far, so that nothing overflows; y does not
depend on m.

Shapes: B batch, T tokens, H heads, N width of queries and keys, P width of values, M chunks, C tokens of a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.common.chunks import borders, each_chunk, in_chunks
from trainer.plan.shape import CHUNK


@dataclass(frozen=True)
class Memory:
    """S (B, H, N, P) and n (B, H, N) as multiples of exp(m), m (B, H)."""

    S: Tensor
    n: Tensor
    m: Tensor


def matrix_memory(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_input: Tensor,
    log_forget: Tensor,
    first: Tensor | None,
    initial: Memory | None,
) -> tuple[Tensor, Memory]:
    """Return the outputs (B, T, H, P) and the last memory.

    `query` and `key` are (B, T, H, N), scaled as they shall be; `value` is (B, T, H, P); `log_input` and `log_forget`
    are (B, T, H), the latter at most 0. `first` (B, T) says which tokens begin a document with an empty memory.
    """
    B, T, H, P = value.shape
    C = min(CHUNK, T)
    M = -(-T // C)
    padded = M * C - T  # tokens that write nothing and forget nothing
    query, key, value = (in_chunks(F.pad(x, (0, 0, 0, 0, 0, padded)), M) for x in (query, key, value))
    forget = in_chunks(F.pad(log_forget, (0, 0, 0, padded)), M).cumsum(-1)  # (B, M, H, C)
    into = in_chunks(F.pad(log_input, (0, 0, 0, padded), value=-torch.inf), M)
    seen = torch.ones(C, C, dtype=torch.bool, device=value.device).tril()
    left, before, whole = forget[..., -1:] - forget + into, forget, forget[..., -1]
    if first is not None:
        ends = borders(F.pad(first, (0, padded)), M)
        seen = seen & ends.pairs[:, :, None]
        before = before.masked_fill(~ends.before[:, :, None], -torch.inf)
        left = left.masked_fill(~ends.after[:, :, None], -torch.inf)
        whole = whole.masked_fill(~ends.through[..., None], -torch.inf)
    exponents = (forget[..., :, None] - forget[..., None, :] + into[..., None, :]).masked_fill(~seen, -torch.inf)
    highest, scores = exponents.amax(-1), query @ key.transpose(-1, -2)  # (B, M, H, C), (B, M, H, C, C)
    memory, outputs = initial or _empty(key, value), []
    reads, writes = each_chunk(query, scores, exponents, highest, before), each_chunk(key, value, left, whole)
    for (q, score, exponent, most, earlier), (k, v, log_weight, log_kept) in zip(reads, writes, strict=True):
        entering = earlier + memory.m[..., None]  # (B, H, C)
        m = torch.maximum(most, entering).detach()
        weights = score * (exponent - m[..., None]).exp()
        reading = q * (entering - m).exp()[..., None]
        total = weights.sum(-1) + (reading @ memory.n[..., None]).squeeze(-1)
        scale = torch.maximum(total.abs(), (-m).exp())
        outputs.append((weights @ v + reading @ memory.S) / scale[..., None])
        memory = _go_on(memory, k, v, log_weight, log_kept)
    y = torch.stack(outputs, dim=1)
    return y.transpose(2, 3).reshape(B, M * C, H, P)[:, :T], memory


def _go_on(memory: Memory, key: Tensor, value: Tensor, left: Tensor, whole: Tensor) -> Memory:
    """Return the memory after a chunk, given the log weights of its tokens (B, H, C) and of what was before (B, H)."""
    m = torch.maximum(whole + memory.m, left.amax(-1)).detach()
    kept = (whole + memory.m - m).exp()[..., None]
    written = (key * (left - m[..., None]).exp()[..., None]).transpose(-1, -2)  # (B, H, N, C)
    return Memory(kept[..., None] * memory.S + written @ value, kept * memory.n + written.sum(-1), m)


def _empty(key: Tensor, value: Tensor) -> Memory:
    """Return a memory of nothing. Its m is low, and no -inf, whose differences would be undefined."""
    B, _, H, _, N = key.shape
    return Memory(value.new_zeros(B, H, N, value.shape[-1]), value.new_zeros(B, H, N), value.new_full((B, H), -1e30))
