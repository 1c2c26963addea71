"""Say what is missing where a command would start ranks, or prepare data, on a machine that was installed without."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

from trainer.contract.errors import UserError
from trainer.plan.deepspeed import NOT_INSTALLED

NEEDED = ("torch", "safetensors", "sentencepiece", "tokenizers")  # `datasets` only to read from the hub


def need_rank_packages(engines: Iterable[str] = ()) -> None:
    """Raise UserError where this environment has not what preparing data and ranks with these engines need."""
    missing = [name for name in NEEDED if not _is_there(name)]
    if not missing and "deepspeed" in engines and not _is_there("deepspeed"):
        raise UserError(NOT_INSTALLED)
    if missing:
        raise UserError(
            f'this needs {", ".join(missing)}, which a login node does without: pip install "escala[train]", or run it '
            "where ranks run"
        )


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # an import hook says so
        return False
