"""A recurrence or convolution works in proportion to the tokens that it reads, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.config.model import parse_model
from trainer.models.build import build_model
from trainer.models.mixers.registry import MIXERS

OURS = {name for name, mixer in MIXERS.items() if mixer.cost_class.__module__.startswith("trainer.")}  # no test's own
LINEAR = sorted(OURS - {"attention"})
VOCAB = 61


class CountValues(TorchDispatchMode):
    """Counts the values of every tensor that an operation returns: work, without a clock."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.total += sum(x.numel() for x in (made if isinstance(made, tuple | list) else [made]) if _is_tensor(x))
        return made


def _is_tensor(x: object) -> bool:
    return isinstance(x, Tensor)


def work(mixer: str, length: int) -> int:
    """Return how many values a training pass of one sequence makes."""
    heads = {"n_heads": 2} if "n_heads" in MIXERS[mixer].cost_class.settings else {}
    model = {"d_model": 16, "n_layers": 1, "vocab_size": VOCAB, "context_length": length, "mixer": mixer, **heads}
    built = build_model(parse_model(model), 0)
    text = torch.arange(length + 1)[None] % VOCAB
    with CountValues() as counted:
        built(text[:, :-1], text[:, 1:]).sum().backward()
    return counted.total


@pytest.mark.parametrize("mixer", LINEAR)
def test_four_times_the_tokens_are_four_times_the_work(mixer: str) -> None:
    assert work(mixer, 2048) < 4.2 * work(mixer, 512)
