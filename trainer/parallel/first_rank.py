"""What one rank decides for all: files that others may change are read once, by the first rank."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist

from trainer.errors import UserError

SAID, REFUSED = b"+", b"-"


def from_first_rank(say: Callable[[], str], device: torch.device) -> str:
    """Return on every rank what `say` gives on the first. A UserError there is raised on all. A collective call."""
    first = dist.get_rank() == 0
    message = _said(say) if first else b""
    size = torch.tensor(len(message), dtype=torch.int64, device=device)
    dist.broadcast(size, src=0)
    content = torch.empty(int(size), dtype=torch.uint8, device=device)
    if first:
        content.copy_(torch.frombuffer(bytearray(message), dtype=torch.uint8))
    dist.broadcast(content, src=0)
    message = content.cpu().numpy().tobytes()
    if message[:1] == REFUSED:
        raise UserError(message[1:].decode())
    return message[1:].decode()


def _said(say: Callable[[], str]) -> bytes:
    try:
        return SAID + say().encode()
    except UserError as error:
        return REFUSED + str(error).encode()
