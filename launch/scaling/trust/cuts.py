"""Where a table is cut into runs that a fit may see and larger ones that judge it."""

from __future__ import annotations

SHARES = (0.5, 0.65, 0.8, 0.9)  # of the rows, by compute, that the fits may see
