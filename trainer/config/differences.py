"""What differs between two configurations, key by key, for messages."""

from __future__ import annotations

import json
from typing import Any

MOST_NAMED = 4


def differences(old: Any, new: Any, key: str = "") -> str:
    """Return the keys whose values differ, with both values; the first few of them. Both are plain JSON values."""
    return "; ".join(_differences(key, old, new)[:MOST_NAMED])


def _differences(key: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        return [c for n in names for c in _differences(f"{key}.{n}" if key else n, old.get(n), new.get(n))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [c for i, (a, b) in enumerate(zip(old, new, strict=True)) for c in _differences(f"{key}.{i}", a, b)]
    return [] if old == new else [f"{key}: {_shown(old)} there, {_shown(new)} here"]


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:57]}..."
