"""How a running job is asked for a profile: a file in its directory, which its first rank takes away."""

from __future__ import annotations

from pathlib import Path

from trainer.contract.run_dir import write_atomically

FILE = "profile_request"
MOST_STEPS = 100  # a trace of more is too large to open


def leave_request(run_dir: Path, steps: int) -> None:
    """Ask the ranks of a run to profile so many of their next steps. Raises `OSError` that names the file."""
    write_atomically(run_dir / FILE, f"{steps}\n")


def take_request(run_dir: Path) -> int:
    """Return for how many steps a profile is asked, and take the request away; 0 where there is none."""
    path = run_dir / FILE
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
        path.unlink()
    except OSError:
        return 0
    return min(int(text), MOST_STEPS) if text.isascii() and text.isdigit() else 0
