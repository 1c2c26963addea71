"""`--map N="Model Size",C="Training FLOP",loss=ln(ppl)`: which columns mean what.

A value is a column's name, `ln(column)`, or a column times or over a number: `params*1e6`, `loss*ln2`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.contract.errors import UserError, did_you_mean

NUMERIC = ("N", "D", "C", "loss", "U", "sem", "lr", "batch")
LABELS = ("name", "group", "trunk", "seed", "tokenizer", "vocab", "eval_set", "dataset")
ALONG_A_RUN = ("step", "total_steps")  # they tell a checkpoint from the end of a run, and are no part of a table
TARGETS = NUMERIC + LABELS + ALONG_A_RUN
ALONE = ("N", "D", "C", "loss")  # each of these has a column of its own

# Names under which the field's tables keep these numbers, first match wins; compared without case and marks.
KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "N": ("n", "params", "numparams", "nparams", "parameters", "modelsize", "paramstotal", "nnonembed", "modelparams",
          "modelnumparams"),
    "D": ("d", "tokens", "numtokens", "ntokens", "trainingtokens", "traintokens", "datasize"),
    "C": ("c", "flops", "flop", "trainingflop", "trainingflops", "compute", "trainflops", "trainflopsreported"),
    "loss": ("loss", "valloss", "evalloss", "validationloss", "finalloss", "testloss", "crossentropy", "celoss", "ce"),
    "U": ("u", "uniquetokens"),
    "sem": ("sem", "losssem"),
    "lr": ("lr", "learningrate", "peaklr"),
    "batch": ("batch", "batchsize", "bs", "tokensperstep"),
    "name": ("name", "run", "runname", "runid", "model"),
    "group": ("group", "family", "arch", "architecture", "suite"),
    "trunk": ("trunk",),
    "seed": ("seed",),
    "tokenizer": ("tokenizer", "tokenizerhash", "tokenizername"),
    "vocab": ("vocabsize", "nvocab", "vocab"),
    "eval_set": ("evalset", "evaldataset", "valset", "validationset", "testset"),
    "dataset": ("dataset", "traindataset", "trainset", "corpus"),
    "step": ("step", "globalstep", "trainerglobalstep", "trainglobalstep", "iteration", "iter"),
    "total_steps": ("totalsteps", "maxsteps", "numtrainsteps", "trainiters"),
}  # fmt: skip
PERPLEXITIES = ("ppl", "perplexity", "valppl", "testppl", "valperplexity", "testperplexity")
_SCALED = re.compile(r"^(?P<column>.+?)\s*(?P<op>[*/])\s*(?P<factor>[0-9.eE+-]+|ln2)$")
_NUMBER = re.compile(r"^(?P<digits>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)\s*(?P<suffix>[KkMmBbTt]?)$", re.ASCII)
# Thousands are marked by commas, _, apostrophes or spaces: plain, no-break, thin and narrow ones.
_THOUSANDS = ",_'\u2019 \u00a0\u2009\u202f"
_GROUPED = re.compile(rf"^[+-]?\d{{1,3}}([{_THOUSANDS}])\d{{3}}(\1\d{{3}})*(\.\d+)?$", re.ASCII)
_SUFFIXES = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_LOG = re.compile(r"^ln\((?P<column>.+)\)$")


@dataclass(frozen=True)
class Source:
    """Where one column comes from: its name in the file and what is done to its values."""

    column: str
    factor: float = 1.0
    logarithm: bool = False
    as_said: bool = False  # the user wrote a conversion, if only `*1`: the unit is right

    @property
    def converts(self) -> bool:
        """Whether the user said how values are to be converted."""
        return self.logarithm or self.factor != 1.0

    def number(self, value: Any) -> float:
        """Convert one cell; anything that is not a number becomes NaN, and is reported by row later."""
        try:
            number = _plain_number(value) * self.factor
        except (TypeError, ValueError, OverflowError):
            return math.nan
        if self.logarithm:
            return math.log(number) if number > 0 else math.nan
        return number


def _plain_number(value: Any) -> float:
    """Read 1e9, "1,000,000,000", "1 000 000 000", "1.3B" and "1.3b" alike.

    Raises `ValueError`, `TypeError` and `OverflowError`.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number")
    if not isinstance(value, str):
        return float(value)
    text = value.strip()
    if _GROUPED.match(text):
        return float(re.sub(f"[{_THOUSANDS}]", "", text))
    number = _NUMBER.match(text)
    if number is None:
        raise ValueError(f"{value!r} is no number")
    return float(number["digits"]) * _SUFFIXES[number["suffix"].upper()]


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
        if target in found:
            raise UserError(f"--map names {target} twice: {found[target]!r} and {column!r}")
        found[target] = column
    return found


def resolve(mapping: Mapping[str, str], columns: Iterable[str], where: str) -> dict[str, Source]:
    """Find each wanted column in the file: those named by the user, then those with a known name."""
    available = list(columns)
    found = {target: _source(text, available, target, where) for target, text in mapping.items()}
    by_plain_name = {plain_name(c): c for c in reversed(available)}
    implied = KNOWN_NAMES if "N" not in mapping and "C" not in mapping else _only_labels()
    for target, names in implied.items():
        match = next((by_plain_name[n] for n in names if n in by_plain_name), None)
        if target not in found and match is not None:
            found[target] = Source(match)
    owners: dict[str, str] = {}
    for target in ALONE:
        if target in found and owners.setdefault(found[target].column, target) != target:
            column = found[target].column
            raise UserError(f"--map: {owners[column]} and {target} cannot both be the column {column!r}")
    return found


def _only_labels() -> dict[str, tuple[str, ...]]:
    """A user who maps sizes by hand means exactly those; labels and the loss may still be found by name."""
    return {t: names for t, names in KNOWN_NAMES.items() if t in LABELS + ALONG_A_RUN or t == "loss"}


def _source(text: str, available: list[str], target: str, where: str) -> Source:
    if text in available:
        return Source(text)
    if match := _LOG.match(text):
        return Source(_existing(match["column"], available, target, where), logarithm=True)
    if match := _SCALED.match(text):
        column = _existing(match["column"], available, target, where)
        factor = math.log(2) if match["factor"] == "ln2" else _plain_factor(match["factor"], text)
        return Source(column, factor if match["op"] == "*" else 1 / factor, as_said=True)
    return Source(_existing(text, available, target, where))


def _plain_factor(factor: str, text: str) -> float:
    try:
        number = float(factor)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(f"--map: {text!r}: {factor!r} is not a positive number to convert by")
    return number


def _existing(column: str, available: list[str], target: str, where: str) -> str:
    if column not in available:
        raise UserError(f"{where} has no column {column!r} for {target}{did_you_mean(column, available)}")
    return column


def plain_name(name: str) -> str:
    """Return a column's name without case, space, _, - and the marks of W&B's nested names, . and /."""
    return re.sub(r"[\s_\-./]", "", name).lower()
