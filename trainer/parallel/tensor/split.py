"""How a parameter is split over tensor ranks: the vocabulary of the plan that stands beside each model as data.

A plan maps patterns of module names to kinds; a module that no pattern names is replicated.

    vocab         rows are words; lookups and logits are partial, the loss is computed without gathering them
    column        rows of the weight (and bias) are split: each rank makes a share of the outputs
    column qkv    as column, for queries, keys and values in one matrix: a rank holds its share of each
    column pair   as column, for two matrices of equal width in one (gate and up)
    row           columns of the weight are split: the ranks' outputs are summed, the bias is added once
    shared heads  replicated, but used by each rank's own heads: its gradient is summed over tensor ranks
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from trainer.config.model import ModelConfig

KINDS = ("vocab", "column", "column qkv", "column pair", "row", "shared heads")


@dataclass(frozen=True)
class Split:
    """Where the values of one tensor rank's share lie in the whole parameter.

    `pieces` are (start, stop) ranges along `dim` of the whole; the share is their concatenation in this order.
    A replicated parameter has `dim` None and no pieces.
    """

    shape: tuple[int, ...]
    dim: int | None = None
    pieces: tuple[tuple[int, int], ...] = ()

    @property
    def local_shape(self) -> tuple[int, ...]:
        if self.dim is None:
            return self.shape
        width = sum(stop - start for start, stop in self.pieces)
        return (*self.shape[: self.dim], width, *self.shape[self.dim + 1 :])


def kind_of(plan: Mapping[str, str], module: str) -> str | None:
    """Return the kind of a module by the first pattern that matches its name, or None for replicated."""
    for pattern, kind in plan.items():
        if fnmatchcase(module, pattern):
            assert kind in KINDS, f"unknown kind {kind!r} for {pattern!r}"
            return kind
    return None


def part_widths(kind: str | None, config: ModelConfig, width: int) -> tuple[int, ...]:
    """Return the widths of the parts that lie one after the other in a dimension of this width."""
    if kind == "column qkv":
        K = config.head_dim
        return (config.n_heads * K, config.kv_heads * K, config.kv_heads * K)
    return (width // 2, width // 2) if kind == "column pair" else (width,)


def split_parameter(
    kind: str | None,
    name: str,
    shape: tuple[int, ...],
    config: ModelConfig,
    *,
    tp_rank: int,
    tp_size: int,
) -> Split:
    """Return the share of one tensor rank.

    `name` is the last part of the parameter's name (weight or bias). All widths must be multiples of `tp_size`
    (see `check_model_splits`).
    """
    whole = Split(shape)
    if tp_size == 1 or kind in (None, "shared heads") or (kind == "row" and name == "bias"):
        return whole
    dim = 1 if kind == "row" else 0
    widths = part_widths(kind, config, shape[dim])
    assert sum(widths) == shape[dim], f"parts {widths} of {shape}"
    pieces, offset = [], 0
    for width in widths:
        assert width % tp_size == 0, f"{width} over {tp_size} tensor ranks"
        share = width // tp_size
        pieces.append((offset + tp_rank * share, offset + (tp_rank + 1) * share))
        offset += width
    return Split(shape, dim, tuple(pieces))
