"""Decode UTF-8, or name what is not."""

from __future__ import annotations

from trainer.contract.errors import UserError


def decoded(raw: bytes, where: str, place: str) -> str:
    """Return the text of some bytes, which stand at `place` of the file `where`. Raises UserError."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(where, place, error) from None


def not_utf8(where: str, place: str, error: UnicodeDecodeError) -> UserError:
    """Return the error that says what is wrong, and where."""
    wrong = error.object[error.start]
    return UserError(
        f"{where}: {place} is not UTF-8 (0x{wrong:02x} at byte {error.start}); convert it, for instance with iconv"
    )
