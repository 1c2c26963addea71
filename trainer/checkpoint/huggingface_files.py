"""The directory of a Hugging Face model: read it with every damage named, write it with the tokenizer of the run."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.checkpoint.manifest import Manifest
from trainer.config.data import DataConfig
from trainer.config.load import load_written
from trainer.contract.errors import UserError
from trainer.contract.run_dir import RunDir, write_atomically
from trainer.data.tokenize.run_tokenizer import directory_of_run
from trainer.data.tokenize.tokenizer import load_tokenizer, read_meta
from trainer.data.tokenize.tokenizer_json import tokenizer_json
from trainer.models.huggingface import CONFIG

WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"


def read_huggingface(source: Path) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors and config.json of a Hugging Face directory; of safetensors files only.

    As in `transformers`, model.safetensors comes first, then the files that an index names. Without either, all files.
    """
    if (source / ADAPTER).exists():
        raise UserError(f"{source} has an {ADAPTER}: merge the adapter into the model first (merge_and_unload of peft)")
    if not (source / CONFIG).exists():
        raise UserError(f"{source} needs {CONFIG} and *.safetensors (pickled .bin files are not read)")
    values = _read_json(source / CONFIG)
    tensors: dict[str, Tensor] = {}
    for file, names in _weight_files(source).items():
        found = _load(source / file)
        if names is not None and (absent := sorted(names - set(found))):
            raise UserError(f"{source / file} lacks {absent[0]}, which {INDEX} says is there ({len(absent)} such)")
        if twice := sorted(set(found) & set(tensors)):
            raise UserError(f"{source} holds {twice[0]} in two files, {file} among them; keep those of one model")
        tensors |= found
    return tensors, values


def _weight_files(source: Path) -> dict[str, set[str] | None]:
    """Return the files that hold the weights, and the tensors that an index expects in each."""
    if (source / WEIGHTS).exists():
        return {WEIGHTS: None}
    if (source / INDEX).exists():
        index = _read_json(source / INDEX)
        where = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(where, dict) or not where or not all(_is_name(file) for file in where.values()):
            raise UserError(f"{source / INDEX} is damaged: its weight_map does not name a file for each tensor")
        files: dict[str, set[str] | None] = {
            file: {name for name, home in where.items() if home == file} for file in sorted(set(where.values()))
        }
        if missing := [file for file in files if not (source / file).exists()]:
            raise UserError(f"{source} lacks {', '.join(missing[:3])}, which {INDEX} names: download it again")
        return files
    found = sorted(file.name for file in source.glob("*.safetensors"))
    if not found:
        raise UserError(f"{source} needs {CONFIG} and *.safetensors (pickled .bin files are not read)")
    return dict.fromkeys(found)


def _is_name(file: Any) -> bool:
    return isinstance(file, str) and file.endswith(".safetensors") and Path(file).name == file


def _load(file: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"{file} is damaged or no safetensors file: {error}; download it again") from None
    return tensors


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def write_huggingface(
    tensors: dict[str, Tensor], values: dict[str, Any], target: Path, dtype: torch.dtype, tokenizer: Path | None
) -> None:
    """Write a directory that `transformers` loads: weights, tokenizer where one is known, and last the config.json.

    Training begins each document after an end token, so that token begins a text there too.
    """
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    eos_id = None if tokenizer is None else _write_tokenizer(tokenizer, target)
    ends = {"bos_token_id": eos_id, "eos_token_id": eos_id, "pad_token_id": None}
    values = {**values, **ends, "dtype": str(dtype).removeprefix("torch.")}
    write_atomically(target / CONFIG, json.dumps(values, indent=2) + "\n")


def _write_tokenizer(source: Path, target: Path) -> int:
    """Write the files of a tokenizer, and return the id of its end token."""
    tokenizer = load_tokenizer(source)
    made = tokenizer_json(source)
    if made is None:
        file = str(read_meta(source)["file"])
        (target / file).write_bytes((source / file).read_bytes())
        print(f"{target / file} is a sentencepiece model; read it with sentencepiece", file=sys.stderr)
    else:
        content, end = made
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": end,
            "eos_token": end,
            "clean_up_tokenization_spaces": False,
        }
        write_atomically(target / "tokenizer.json", content)
        write_atomically(target / "tokenizer_config.json", json.dumps(settings, indent=2, ensure_ascii=False) + "\n")
    return tokenizer.eos_id


@contextmanager
def tokenizer_of(checkpoint: Path, manifest: Manifest) -> Iterator[Path | None]:
    """Give where the tokenizer of a checkpoint lies, in its run or with its data. None, with a warning, without one."""
    expected = manifest.state.get("identity", {}).get("tokenizer")
    run = RunDir(checkpoint.resolve().parent.parent)
    with ExitStack() as open_while_used:
        found = None
        try:
            if expected is None:
                raise UserError("it does not say with which it was trained")
            found = open_while_used.enter_context(directory_of_run(run.tokenizer, _data_of(run), expected))
        except UserError as error:
            warning = f"no tokenizer of {checkpoint} was found, so the export has none, and no end token"
            print(f"warning: {warning}: {error}", file=sys.stderr)
        yield found


def _data_of(run: RunDir) -> DataConfig | None:
    """Return the data of a run, or None where its configuration is another version's: the weights are of use still."""
    with contextlib.suppress(UserError):
        return load_written(run.config).data if run.config.exists() else None
    return None
