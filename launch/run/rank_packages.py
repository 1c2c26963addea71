"""Say what is missing where a command would start ranks, or prepare data, on a machine that was installed without."""

from __future__ import annotations

from importlib.util import find_spec

from trainer.contract.errors import UserError

NEEDED = ("torch", "deepspeed", "datasets", "safetensors", "sentencepiece", "tokenizers")


def need_rank_packages() -> None:
    """Raise UserError where this environment has not what a rank and the preparation of data need."""
    missing = [name for name in NEEDED if not _is_there(name)]
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
