"""What a parameter begins with, as a family declares it. Free of torch; `common/initial.py` fills it.

A declaration of your own subclasses `Initial`, and its filling is registered with `@values.register` there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Initial:
    """What the whole parameter begins with. Tensor ranks make the whole, and keep their share."""


@dataclass(frozen=True)
class Normal(Initial):
    """Normal values of mean 0."""

    std: float


@dataclass(frozen=True)
class Constant(Initial):
    """One value everywhere."""

    value: float


@dataclass(frozen=True)
class Uniform(Initial):
    """Uniform between `low` and `high`."""

    low: float
    high: float


@dataclass(frozen=True)
class LogOfUniform(Initial):
    """The logarithm of what is uniform between `low` and `high`, as A_log of Mamba-2 (Dao and Gu 2024)."""

    low: float
    high: float


@dataclass(frozen=True)
class InverseSoftplus(Initial):
    """Values whose softplus is log-uniform between `low` and `high`, as dt_bias of Mamba-2 (Dao and Gu 2024)."""

    low: float
    high: float


@dataclass(frozen=True)
class Spaced(Initial):
    """Evenly from `low` to `high`, as forget gates of an mLSTM, whose heads shall remember differently long."""

    low: float
    high: float


@dataclass(frozen=True)
class Xavier(Initial):
    """Uniform within sqrt(6 / (inputs + outputs)) of 0 (Glorot and Bengio 2010).

    `parts` are the widths of several matrices that lie one after the other, each with outputs of its own.
    """

    parts: tuple[int, ...] = ()
    gain: float = 1.0


@dataclass(frozen=True)
class Identity(Initial):
    """`gain` on the diagonal of the last two dimensions, or 0: a recurrence that keeps what it has."""

    gain: float = 1.0


@dataclass(frozen=True)
class Orthogonal(Initial):
    """A random orthogonal matrix times `gain`, for each square of rows: of shape (n K, K) it has n such matrices."""

    gain: float = 1.0


@dataclass(frozen=True)
class Stacked(Initial):
    """Stretches of rows, one after the other, each with an initial value of its own, such as an LSTM's biases."""

    parts: tuple[tuple[int, Initial], ...]  # (rows, initial value)
