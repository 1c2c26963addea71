"""Count the white-space separated words of UTF-8 text, as `str.split` does, at the rate of memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_IS_SPACE = np.array([chr(code).isspace() for code in range(1 << 16)])  # all white space lies in the first plane
_WIDE = [chr(code).encode() for code in np.flatnonzero(_IS_SPACE).tolist() if code >= 0x80]
# What a byte is: white space by itself, or the first of so many bytes of a character that may be.
_SPACE = 1
_FIRST = {encoded[0]: len(encoded) for encoded in _WIDE}
_KINDS = bytes(_SPACE if byte < 0x80 and _IS_SPACE[byte] else _FIRST.get(byte, 0) for byte in range(256))


def count_words(texts: Sequence[bytes]) -> list[int]:
    """Return `len(text.decode().split())` of each text. They are UTF-8, and counted together: many are short."""
    joined = b"\n" + b"\n".join(texts)
    kinds = np.frombuffer(joined.translate(_KINDS), dtype=np.uint8)
    space = kinds == _SPACE
    if not joined.isascii():
        _mark_wide(np.frombuffer(joined, dtype=np.uint8), kinds, space)
    words = np.flatnonzero(space[:-1] > space[1:])  # the place before each word
    begins = np.cumsum([0, *(len(text) + 1 for text in texts)])
    counts: list[int] = np.diff(np.searchsorted(words, begins)).tolist()
    return counts


def _mark_wide(content: npt.NDArray[np.uint8], kinds: npt.NDArray[np.uint8], space: npt.NDArray[np.bool_]) -> None:
    """Mark all bytes of white space that takes several."""
    wide = np.flatnonzero(kinds > _SPACE)
    for size in (2, 3):
        first = wide[kinds[wide] == size]
        code = content[first].astype(np.int64) & (0x1F if size == 2 else 0x0F)
        for offset in range(1, size):
            code = code << 6 | content[first + offset] & 0x3F
        found = first[_IS_SPACE[code]]
        for offset in range(size):
            space[found + offset] = True
