"""Numbers of a device on their way to the host, which waits for them when it reads them and no sooner."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """The values of a small tensor, as they are when this is made."""

    def __init__(self, values: Tensor) -> None:
        self._values, self._arrived = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """Return the values of a vector."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[float] = self._values.tolist()
        return values
