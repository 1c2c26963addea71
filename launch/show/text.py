"""Numbers as people read them."""

from __future__ import annotations


def count(value: float) -> str:
    """Write a number of parameters or tokens: 532K, 10.7M, 1.33B, 2.1T."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= limit:
            scaled = value / limit
            return f"{scaled:.3g}{suffix}" if scaled < 1000 else f"{scaled:.0f}{suffix}"
    return f"{value:.0f}" if value == round(value) else f"{value:.3g}"


def flops_text(value: float, digits: int = 2) -> str:
    """Write a number of FLOPs as people type it: 1.3e22."""
    return f"{value:.{digits - 1}e}".replace("e+", "e").replace("e0", "e").replace(".0e", "e")


def size(number: float) -> str:
    """Return bytes as KiB, MiB, GiB."""
    for limit, suffix in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= limit:
            return f"{number / limit:.1f} {suffix}"
    return f"{number:.0f} B"


def progress_bar(share: float, width: int) -> str:
    """Draw a share of 0 to 1 as a bar of so many characters."""
    full = round(max(0.0, min(1.0, share)) * width)
    return "━" * full + "─" * (width - full)
