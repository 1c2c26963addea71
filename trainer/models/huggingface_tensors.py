"""The tensors of a Hugging Face model: exactly those of the architecture, or a refusal that names what is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.contract.errors import UserError

Tensors = dict[str, Tensor]
HEAD = "lm_head.weight"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def without_tied_head(tensors: Tensors, embedding: str) -> Tensors:
    """Leave out a head that is the embedding. Raises `UserError` where the file has another one."""
    head = tensors[HEAD]
    if embedding in tensors and not torch.equal(head, tensors[embedding]):
        raise UserError(
            f"config.json says tie_word_embeddings, and the files hold lm_head.weight beside another {embedding}: "
            "one of them is wrong; set tie_word_embeddings to false, or remove the head"
        )
    return {name: t for name, t in tensors.items() if name != HEAD}


def check_layers(tensors: Tensors, layers: int, prefix: str) -> None:
    """Raise `UserError` where the files hold another number of layers. Names of layers begin with the prefix."""
    found = len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})
    if found != layers:
        raise UserError(f"config.json describes {layers} layers, the files hold {found}")


def check_tensors(tensors: Tensors, expected: dict[str, tuple[int, ...]]) -> None:
    """Raise `UserError` where the files do not hold exactly what is expected."""
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing:
        raise UserError(f"the Hugging Face files lack {_counted(missing)}")
    if unexpected:
        raise UserError(f"the Hugging Face files hold {_counted(unexpected)}, for which this architecture has no place")
    wrong = [
        f"{name} is {tuple(t.shape)}, config.json asks for {expected[name]}"
        for name, t in tensors.items()
        if tuple(t.shape) != expected[name]
    ]
    if wrong:
        raise UserError(f"{len(wrong)} tensors have another shape: {'; '.join(wrong[:3])}")
    if odd := [f"{name} of {t.dtype}" for name, t in tensors.items() if t.dtype not in _FLOATS]:
        raise UserError(f"quantized or integer tensors are not converted: {_counted(odd)}")


def _counted(names: list[str]) -> str:
    return f"{len(names)} tensors: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
