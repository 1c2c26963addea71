"""Initial values that depend on a parameter's name and the seed, and on nothing else.

Neither the order in which modules are built nor the number of ranks that share them changes a value, so a
rank that holds a slice can make the whole parameter, keep its slice, and agree with every other layout.
"""

from __future__ import annotations

import hashlib
import math
from functools import singledispatch

import torch
from torch import Tensor

from trainer.models.initial import (
    Constant,
    Identity,
    Initial,
    InverseSoftplus,
    LogOfUniform,
    Normal,
    Orthogonal,
    Spaced,
    Stacked,
    Uniform,
    Xavier,
)

Shape = tuple[int, ...]


def generator_for(name: str, seed: int) -> torch.Generator:
    """Return a CPU generator seeded by the name and the seed."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def fill(parameter: Tensor, name: str, initial: Initial, seed: int) -> None:
    """Fill in place, as the parameter's role says."""
    if isinstance(initial, Constant):
        parameter.fill_(initial.value)
        return
    parameter.copy_(values(initial, tuple(parameter.shape), generator_for(name, seed)))


@singledispatch
def values(initial: Initial, shape: Shape, generator: torch.Generator) -> Tensor:
    """Return the values of a parameter, float32 on the CPU."""
    raise AssertionError(f"nothing says how {initial} is filled: register it with values.register")


@values.register
def _normal(initial: Normal, shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.empty(shape, dtype=torch.float32).normal_(0.0, initial.std, generator=generator)


@values.register
def _constant(initial: Constant, shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.full(shape, initial.value, dtype=torch.float32)


@values.register
def _uniform(initial: Uniform, shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.empty(shape, dtype=torch.float32).uniform_(initial.low, initial.high, generator=generator)


@values.register
def _log_of_uniform(initial: LogOfUniform, shape: Shape, generator: torch.Generator) -> Tensor:
    return _uniform(Uniform(initial.low, initial.high), shape, generator).log()


@values.register
def _inverse_softplus(initial: InverseSoftplus, shape: Shape, generator: torch.Generator) -> Tensor:
    wanted = _uniform(Uniform(math.log(initial.low), math.log(initial.high)), shape, generator).exp()
    return wanted + torch.log(-torch.expm1(-wanted))


@values.register
def _spaced(initial: Spaced, shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.linspace(initial.low, initial.high, math.prod(shape)).view(shape)


@values.register
def _xavier(initial: Xavier, shape: Shape, generator: torch.Generator) -> Tensor:
    rows, inputs = shape
    bounds = [(outputs, initial.gain * math.sqrt(6 / (inputs + outputs))) for outputs in initial.parts or (rows,)]
    return torch.cat([_uniform(Uniform(-b, b), (outputs, inputs), generator) for outputs, b in bounds])


@values.register
def _identity(initial: Identity, shape: Shape, generator: torch.Generator) -> Tensor:
    return (initial.gain * torch.eye(*shape[-2:])).expand(shape).clone()


@values.register
def _orthogonal(initial: Orthogonal, shape: Shape, generator: torch.Generator) -> Tensor:
    rows, width = shape
    assert rows % width == 0, f"{shape} is no stack of squares"
    squares = []
    for _ in range(rows // width):
        q, r = torch.linalg.qr(torch.empty(width, width).normal_(generator=generator))
        squares.append(q * r.diagonal().sign())  # else its distribution would not be uniform (Mezzadri 2007)
    return initial.gain * torch.cat(squares)


@values.register
def _stacked(initial: Stacked, shape: Shape, generator: torch.Generator) -> Tensor:
    assert sum(rows for rows, _ in initial.parts) == shape[0], f"{initial.parts} of {shape}"
    return torch.cat([values(part, (rows, *shape[1:]), generator) for rows, part in initial.parts])
