"""The table that laws are fitted to: arrays of N, D, C and loss, with labels and where each row came from.

It is read from Escala's own ledger or from anybody's CSV, JSON lines or parquet file. N is the number of
parameters under a named convention, D training tokens, C training FLOPs, loss in nats per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.scaling.arrays import Array
from launch.scaling.table.counting import counting_text
from trainer.contract.errors import UserError


@dataclass(frozen=True)
class Table:
    """Rows of runs. Every array has one entry for each row."""

    source: str
    sha256: str
    columns: Mapping[str, Array]  # N, D, C, loss, and where known U, sem, lr, batch
    row: NDArray[np.int64]  # 1-based number of the row in the file, header not counted
    labels: Mapping[str, NDArray[np.str_]]
    by_position: Sequence[Sequence[float]] = ()
    conventions: Mapping[str, Array] = field(default_factory=dict)  # N under each convention, ledgers only
    flops: Mapping[str, Array] = field(default_factory=dict)  # C under each convention, ledgers only
    n_convention: str = "as given"
    c_convention: str = "as given"
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    spent: Mapping[str, float] = field(default_factory=dict)  # by all cells of a ledger, in units of its keys
    left_out: tuple[str, ...] = ()  # by filters that the user named; what the reader left out is in the warnings

    @property
    def counting(self) -> str:
        """What N counts, to stand beside it; empty where the table does not say."""
        return counting_text(self.n_convention)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def N(self) -> Array:  # noqa: N802
        """Parameters."""
        return self.columns["N"]

    @property
    def D(self) -> Array:  # noqa: N802
        """Tokens."""
        return self.columns["D"]

    @property
    def C(self) -> Array:  # noqa: N802
        """FLOPs."""
        return self.columns["C"]

    @property
    def loss(self) -> Array:
        """Nats per token."""
        return self.columns["loss"]

    def has(self, *names: str) -> bool:
        """Return whether all these columns are there."""
        return all(n in self.columns for n in names)

    @property
    def without(self) -> tuple[str, ...]:
        """Say which rows of the file are not in the table, and why."""
        return (*self.left_out, *(w for w in self.warnings if w.startswith("left out")))

    def select(self, keep: NDArray[Any]) -> Table:
        """Return the rows for which `keep` (mask or indices) holds."""
        index = np.arange(len(self))[keep]
        return replace(
            self,
            columns={k: v[index] for k, v in self.columns.items()},
            row=self.row[index],
            labels={k: v[index] for k, v in self.labels.items()},
            by_position=[self.by_position[i] for i in index] if self.by_position else (),
            conventions={k: v[index] for k, v in self.conventions.items()},
            flops={k: v[index] for k, v in self.flops.items()},
        )

    def counted(self, n_convention: str) -> Table:
        """Return the same runs with N under another convention (ledgers only)."""
        if n_convention not in self.conventions:
            raise UserError(
                f"N is known under {sorted(self.conventions) or ['one convention only']}, not {n_convention!r}"
            )
        columns = {**self.columns, "N": self.conventions[n_convention]}
        return replace(self, columns=columns, n_convention=n_convention)

    def require(self, names: Sequence[str], law: str) -> None:
        """Raise `UserError` unless every column is there."""
        missing = [n for n in names if n not in self.columns]
        if missing:
            raise UserError(
                f"law {law!r} needs {', '.join(names)}; {self.source} gives {', '.join(self.columns)}: "
                f"name the columns, for instance --map {missing[0]}=COLUMN"
            )
