"""How far a fit or a decision is to be trusted."""

from __future__ import annotations

from typing import Literal

Status = Literal["certified", "weak", "refused"]
