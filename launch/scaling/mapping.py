"""`--map N="Model Size",C="Training FLOP",loss=ln(ppl)`: which columns mean what.

A value is a column's name, `ln(column)`, or a column times or over a number: `params*1e6`, `loss*ln2`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import UserError, did_you_mean

NUMERIC = ("N", "D", "C", "loss", "U", "sem", "lr", "batch")
LABELS = ("name", "group", "trunk", "seed", "tokenizer", "eval_set")
TARGETS = NUMERIC + LABELS

# Names under which the field's tables keep these numbers, first match wins; compared without case, space, _ and -.
KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "N": ("n", "params", "numparams", "nparams", "parameters", "modelsize", "paramstotal", "nnonembed", "modelparams"),
    "D": ("d", "tokens", "numtokens", "ntokens", "trainingtokens", "traintokens", "datasize"),
    "C": ("c", "flops", "flop", "trainingflop", "trainingflops", "compute", "trainflops", "trainflopsreported"),
    "loss": ("loss", "valloss", "evalloss", "finalloss", "testloss", "crossentropy", "celoss", "ce"),
    "U": ("u", "uniquetokens"),
    "sem": ("sem", "losssem"),
    "lr": ("lr", "learningrate", "peaklr"),
    "batch": ("batch", "batchsize", "bs", "tokensperstep"),
    "name": ("name", "run", "model"),
    "group": ("group", "family", "arch", "architecture"),
    "trunk": ("trunk",),
    "seed": ("seed",),
    "tokenizer": ("tokenizer", "tokenizerhash"),
    "eval_set": ("evalset",),
}  # fmt: skip
_SCALED = re.compile(r"^(?P<column>.+?)\s*(?P<op>[*/])\s*(?P<factor>[0-9.eE+-]+|ln2)$")
_GROUPED = re.compile(r"^\d{1,3}(,\d{3})+(\.\d+)?$")
_SUFFIXES = {"K": 1e3, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_LOG = re.compile(r"^ln\((?P<column>.+)\)$")


@dataclass(frozen=True)
class Source:
    """Where one column comes from: its name in the file and what is done to its values."""

    column: str
    factor: float = 1.0
    logarithm: bool = False

    def number(self, value: Any) -> float:
        """Convert one cell; anything that is not a number becomes NaN, and is reported by row later."""
        try:
            number = _plain_number(value) * self.factor
        except (TypeError, ValueError):
            return math.nan
        if self.logarithm:
            return math.log(number) if number > 0 else math.nan
        return number


def _plain_number(value: Any) -> float:
    """Read 1e9, "1,000,000,000" and "1.3B" alike. Raises `ValueError` and `TypeError`."""
    if isinstance(value, str):
        value = value.strip()
        if _GROUPED.match(value):
            value = value.replace(",", "")
        elif value[-1:] in _SUFFIXES:
            return float(value[:-1]) * _SUFFIXES[value[-1]]
    return float(value)


def parse_map(text: str | None) -> dict[str, str]:
    """Split `N="Model Size",C=flops` at commas outside quotes. Raises `UserError`."""
    if not text:
        return {}
    found: dict[str, str] = {}
    for part in re.findall(r"""(?:[^,"']|"[^"]*"|'[^']*')+""", text):
        target, equals, column = part.partition("=")
        target, column = target.strip(), re.sub(r"""["']""", "", column).strip()
        if not equals or not column:
            raise UserError(f'--map wants target=column pairs such as N="Model Size",loss=loss, not {part!r}')
        if target not in TARGETS:
            raise UserError(f"--map: unknown target {target!r}{did_you_mean(target, TARGETS)}")
        found[target] = column
    return found


def resolve(mapping: Mapping[str, str], columns: Iterable[str], where: str) -> dict[str, Source]:
    """Find each wanted column in the file: those named by the user, then those with a known name."""
    available = list(columns)
    found = {target: _source(text, available, target, where) for target, text in mapping.items()}
    by_plain_name = {_plain(c): c for c in reversed(available)}
    implied = KNOWN_NAMES if "N" not in mapping and "C" not in mapping else _only_labels()
    for target, names in implied.items():
        match = next((by_plain_name[n] for n in names if n in by_plain_name), None)
        if target not in found and match is not None:
            found[target] = Source(match)
    return found


def _only_labels() -> dict[str, tuple[str, ...]]:
    """A user who maps sizes by hand means exactly those; labels and the loss may still be found by name."""
    return {t: names for t, names in KNOWN_NAMES.items() if t in LABELS or t == "loss"}


def _source(text: str, available: list[str], target: str, where: str) -> Source:
    if text in available:
        return Source(text)
    if match := _LOG.match(text):
        return Source(_existing(match["column"], available, target, where), logarithm=True)
    if match := _SCALED.match(text):
        factor = math.log(2) if match["factor"] == "ln2" else float(match["factor"])
        column = _existing(match["column"], available, target, where)
        return Source(column, factor if match["op"] == "*" else 1 / factor)
    return Source(_existing(text, available, target, where))


def _existing(column: str, available: list[str], target: str, where: str) -> str:
    if column not in available:
        raise UserError(f"{where} has no column {column!r} for {target}{did_you_mean(column, available)}")
    return column


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name).lower()
