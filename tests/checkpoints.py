"""Small checkpoints without a model, for tests that import no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.checkpoint.manifest import File, Manifest, Share, checkpoint_name

CONTENT = b"0123"


def small_manifest(step: int = 7, **changes: Any) -> Manifest:
    """Return the manifest of a checkpoint of two files: `w` cut by columns and by range, `b` whole."""
    digest = "1be2e452b46d7a0d9656bbb1f768e8248eba1b75baed65f5d99eafa948899a6a"  # of CONTENT
    first = {"w": Share(1, ((0, 2), (4, 6)), (0, 12)), "b": Share(None, (), (0, 3))}
    second = {"w": Share(1, ((2, 4), (6, 8)), (0, 5))}
    third = {"w": Share(1, ((2, 4), (6, 8)), (5, 12)), "b": Share(None, (), (3, 6))}
    files = {f"rank_{n:05d}.safetensors": File(4, digest, s) for n, s in enumerate((first, second, third))}
    manifest = Manifest(
        step=step,
        architecture={"d_model": 4, "position": "rotary", "dropout": 0.5e-7},
        state={"identity": {"tokenizer": "abc"}, "data": None},
        optimizer={"name": "adamw", "step": 7.0},
        parameters={"w": (3, 8), "b": (6,)},
        files=files,
        layout="1 x 2",
        trajectory="0123456789abcdef",
    )
    return replace(manifest, **changes)


def write(root: Path, manifest: Manifest) -> Path:
    """Write a checkpoint with this manifest under a directory and return its path."""
    checkpoint = root / checkpoint_name(manifest.step)
    checkpoint.mkdir(parents=True, exist_ok=True)
    for name in manifest.files:
        (checkpoint / name).write_bytes(CONTENT)
    (checkpoint / "manifest.json").write_text(manifest.to_json())
    return checkpoint
