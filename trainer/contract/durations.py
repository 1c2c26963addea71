"""Lengths of time as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return 45 s, 3m20s, 2h05m or 3d04h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
