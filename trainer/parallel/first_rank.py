"""What one rank decides for all: files that others may change are read once, by the first rank.

Ranks on several machines see a shared file system at several ages. So no rank acts on what it alone has read: the first
reads and says it, or all say what they hold and the first compares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.contract.errors import UserError

SAID, REFUSED = b"+", b"-"


def from_first_rank(say: Callable[[], str], device: torch.device, group: dist.ProcessGroup | None = None) -> str:
    """Return on every rank what `say` gives on the first. A UserError there is raised on all. A collective call."""
    first = dist.get_rank() == 0
    message = _said(say) if first else b""
    size = torch.tensor(len(message), dtype=torch.int64, device=device)
    dist.broadcast(size, src=0, group=group)
    content = torch.empty(int(size), dtype=torch.uint8, device=device)
    if first:
        content.copy_(torch.frombuffer(bytearray(message), dtype=torch.uint8))
    dist.broadcast(content, src=0, group=group)
    message = content.cpu().numpy().tobytes()
    if message[:1] == REFUSED:
        raise UserError(message[1:].decode())
    return message[1:].decode()


def to_first_rank(text: str, device: torch.device, group: dist.ProcessGroup | None = None) -> list[str]:
    """Return what each rank of the group says, in their order, on the first, and [] elsewhere. A collective call."""
    world, first = dist.get_world_size(group), dist.get_rank() == 0
    message = text.encode()
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(message)], dtype=torch.int64, device=device), group=group)
    longest = max(1, *(int(size) for size in sizes))
    mine = torch.zeros(longest, dtype=torch.uint8, device=device)
    if message:
        mine[: len(message)] = torch.frombuffer(bytearray(message), dtype=torch.uint8).to(device)
    parts = [torch.empty_like(mine) for _ in range(world)] if first else None
    dist.gather(mine, parts, dst=0, group=group)
    return [_text(part, int(size)) for part, size in zip(parts or [], sizes, strict=False)]


def agreed(text: str, device: torch.device, disagreement: Callable[[Sequence[str]], str]) -> None:
    """Raise one `UserError` on every rank where not all ranks give the same text. A collective call.

    `disagreement` makes the error's sentence of clauses like "ranks 0, 2: ...", one for each different text.
    """
    texts = to_first_rank(text, device)

    def compare() -> str:
        if len(set(texts)) > 1:
            raise UserError(disagreement(by_rank(texts)))
        return ""

    from_first_rank(compare, device)


def by_rank(texts: Sequence[str], *, silent: str | None = None) -> list[str]:
    """Return one clause for each different text, with the ranks that gave it: "rank 1: ...", "ranks 0, 2: ...".

    Ranks whose text is `silent` are left out.
    """
    ranks: dict[str, list[int]] = defaultdict(list)
    for rank, text in enumerate(texts):
        ranks[text].append(rank)
    return [f"rank{'s' * (len(of) > 1)} {_shortened(of)}: {text}" for text, of in ranks.items() if text != silent]


def _shortened(ranks: list[int], most: int = 8) -> str:
    shown = ", ".join(map(str, ranks[:most]))
    return shown if len(ranks) <= most else f"{shown} and {len(ranks) - most} more"


def _text(content: Tensor, size: int) -> str:
    return content[:size].cpu().numpy().tobytes().decode()


def _said(say: Callable[[], str]) -> bytes:
    try:
        return SAID + say().encode()
    except UserError as error:
        return REFUSED + str(error).encode()
