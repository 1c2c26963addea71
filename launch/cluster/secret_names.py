"""The `secrets` of a cluster file: names of variables that are handed on from this shell and never written."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trainer.contract.errors import UserError


def check_secrets(secrets: Collection[str], environment: Mapping[str, str]) -> None:
    """Raise UserError that names the secrets which this shell does not have: the job would find out in the queue."""
    missing = [name for name in secrets if not environment.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: named under `secrets` but not set in this shell. Export it, or take it off the list"
        )
