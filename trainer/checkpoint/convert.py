"""Turn a checkpoint into files that other programs read, or a Hugging Face model into a checkpoint to start from.

    python -m trainer.checkpoint.convert SOURCE TARGET --to safetensors|huggingface|checkpoint

One parameter is in memory at a time beyond the result. Nothing is unpickled.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.checkpoint.compatible import architecture_values
from trainer.checkpoint.fragments import WEIGHT
from trainer.checkpoint.layouts import from_huggingface, to_huggingface
from trainer.checkpoint.load import Source
from trainer.checkpoint.manifest import (
    MANIFEST,
    File,
    Manifest,
    Share,
    checkpoint_name,
    hash_file,
    read_manifest,
)
from trainer.checkpoint.search import newest_sound, root_of
from trainer.config.model import ModelConfig
from trainer.errors import USER_ERROR_EXIT_CODE, UserError
from trainer.parallel.plan import Split
from trainer.run_dir import write_atomically

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_checkpoint(source: Path) -> Path:
    """Return the checkpoint that a path means: itself, or the newest sound one of a run directory."""
    found = newest_sound(root_of(source))
    sentences = [f"{row.checkpoint} was passed over: {row.problem}" for row in found.passed]
    if found.checkpoint is None:
        raise UserError("; ".join([f"{source} holds no sound checkpoint", *sentences]))
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return found.checkpoint


def consolidate(checkpoint: Path, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], ModelConfig]:
    """Return all parameters of a checkpoint, whole, and the architecture they belong to."""
    manifest = read_manifest(checkpoint)
    source = Source(checkpoint, manifest)
    tensors = {n: source.read_share(n, WEIGHT, Split(shape)).to(dtype) for n, shape in manifest.parameters.items()}
    return tensors, ModelConfig(**manifest.architecture)


def write_safetensors(checkpoint: Path, target: Path, dtype: torch.dtype) -> None:
    """Write one safetensors file with all parameters under our names; the architecture is in its metadata."""
    tensors, config = consolidate(checkpoint, dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt", "architecture": config.model_dump_json()})


def write_huggingface(checkpoint: Path, target: Path, dtype: torch.dtype) -> None:
    """Write a directory that `transformers` loads."""
    tensors, config = consolidate(checkpoint, dtype)
    renamed, values = to_huggingface(tensors, config)
    target.mkdir(parents=True, exist_ok=True)
    save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})
    values = {**values, "dtype": str(dtype).removeprefix("torch.")}
    write_atomically(target / "config.json", json.dumps(values, indent=2) + "\n")


def read_huggingface(source: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and config.json of a Hugging Face directory; of safetensors files only."""
    files = sorted(source.glob("*.safetensors"))
    if not files or not (source / "config.json").exists():
        raise UserError(f"{source} needs config.json and *.safetensors (pickled .bin files are not read)")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= load_file(file)
    return tensors, json.loads((source / "config.json").read_text())


def write_checkpoint(source: Path, target: Path) -> Path:
    """Write the weights of a Hugging Face directory as a checkpoint of step 0, for `checkpoint.load: warm_start`."""
    tensors, config = from_huggingface(*read_huggingface(source))
    checkpoint = target / checkpoint_name(0)
    checkpoint.mkdir(parents=True, exist_ok=True)
    path = checkpoint / "rank_00000.safetensors"
    save_file({f"{name}|{WEIGHT}": t.float().flatten().contiguous() for name, t in tensors.items()}, path)
    shares = {name: Share(None, (), (0, t.numel())) for name, t in tensors.items()}
    manifest = Manifest(
        step=0,
        architecture=architecture_values(config),
        state={},
        optimizer={},
        parameters={name: tuple(t.shape) for name, t in tensors.items()},
        files={path.name: File(path.stat().st_size, hash_file(path), shares)},
        layout=f"imported from {source.name}",
    )
    write_atomically(checkpoint / MANIFEST, manifest.to_json())
    return checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Convert and say what was written. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="a checkpoint, a run directory, or a Hugging Face directory")
    parser.add_argument("target", type=Path)
    parser.add_argument("--to", choices=("safetensors", "huggingface", "checkpoint"), default="safetensors")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32")
    a = parser.parse_args(arguments)
    try:
        if a.to == "checkpoint":
            print(f"wrote {write_checkpoint(a.source, a.target)}")
            return 0
        checkpoint = find_checkpoint(a.source)
        write = write_safetensors if a.to == "safetensors" else write_huggingface
        write(checkpoint, a.target, DTYPES[a.dtype])
        print(f"wrote {a.target} from {checkpoint}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
