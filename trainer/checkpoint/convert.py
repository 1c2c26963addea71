"""Turn a checkpoint into files that other programs read, or a Hugging Face model into a checkpoint to start from.

    python -m trainer.checkpoint.convert SOURCE TARGET --to safetensors|huggingface|checkpoint

One parameter is in memory at a time beyond the result. Nothing is unpickled.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from trainer.checkpoint.huggingface_files import read_huggingface, tokenizer_of, write_huggingface
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
from trainer.checkpoint.search import sound_checkpoint
from trainer.config.model import ModelConfig, parse_model
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_USER_ERROR
from trainer.contract.run_dir import write_atomically
from trainer.engine.protocol import WEIGHT
from trainer.models.huggingface import from_huggingface, to_huggingface
from trainer.parallel.tensor.split import Split

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def consolidate(checkpoint: Path, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], ModelConfig]:
    """Return all parameters of a checkpoint, whole, and the architecture they belong to."""
    manifest = read_manifest(checkpoint)
    source = Source(checkpoint, manifest)
    tensors = {}
    for name, shape in manifest.parameters.items():
        values = source.read_share(name, WEIGHT, Split(shape))
        tensors[name] = values.to(dtype)
        if dtype == torch.float16 and tensors[name].isinf().any() and not values.isinf().any():
            raise UserError(f"{name} has a value of {values.abs().max():g}, beyond fp16's largest: use --dtype bf16")
    return tensors, _model_of(checkpoint, manifest)


def _model_of(checkpoint: Path, manifest: Manifest) -> ModelConfig:
    try:
        return parse_model(manifest.architecture)
    except ValueError as error:  # such as a family whose package is not installed here
        raise UserError(f"{checkpoint}: {error}") from None


def write_safetensors(checkpoint: Path, target: Path, dtype: torch.dtype) -> None:
    """Write one safetensors file with all parameters under our names; the architecture is in its metadata."""
    tensors, config = consolidate(checkpoint, dtype)
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt", "architecture": config.model_dump_json()})


def export_huggingface(checkpoint: Path, target: Path, dtype: torch.dtype) -> None:
    """Write a directory that `transformers` loads, with the run's tokenizer where it is found."""
    tensors, config = consolidate(checkpoint, dtype)
    with tokenizer_of(checkpoint, read_manifest(checkpoint)) as tokenizer:
        write_huggingface(*to_huggingface(tensors, config), target, dtype, tokenizer)


def write_checkpoint(source: Path, target: Path) -> Path:
    """Write the weights of a Hugging Face directory as a checkpoint of step 0, for `checkpoint.load: warm_start`."""
    checkpoint = target / checkpoint_name(0)
    if (checkpoint / MANIFEST).exists():
        raise UserError(f"{checkpoint} is a checkpoint already; choose another directory")
    try:
        tensors, config = from_huggingface(*read_huggingface(source))
    except UserError as error:
        raise UserError(str(error) if str(source) in str(error) else f"{source}: {error}") from None
    checkpoint.mkdir(parents=True, exist_ok=True)
    path = checkpoint / "rank_00000.safetensors"
    save_file({f"{name}|{WEIGHT}": t.float().flatten().contiguous() for name, t in tensors.items()}, path)
    shares = {name: Share(None, (), (0, t.numel())) for name, t in tensors.items()}
    manifest = Manifest(
        step=0,
        architecture=config.architecture(),
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
            if a.dtype != "fp32":
                raise UserError(f"--dtype {a.dtype} has no effect with --to checkpoint, which holds fp32: leave it out")
            print(f"wrote {write_checkpoint(a.source, a.target)}")
            return 0
        checkpoint, _ = sound_checkpoint(a.source)
        write = write_safetensors if a.to == "safetensors" else export_huggingface
        write(checkpoint, a.target, DTYPES[a.dtype])
        print(f"wrote {a.target} from {checkpoint}")
    except (SafetensorError, OSError) as error:
        print(f"error: {a.target} could not be written: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
