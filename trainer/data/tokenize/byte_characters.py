"""The characters by which byte-level tokenizers write bytes.

Printable bytes stand for themselves, the others, in order, for what begins at 256 (Radford et al. 2019, GPT-2).
"""

from __future__ import annotations

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
CHARACTER_OF = {byte: chr(byte) for byte in _PRINTED} | {byte: chr(256 + n) for n, byte in enumerate(_OTHERS)}
