"""Text from elsewhere, made safe to show: log lines, messages of other programs, names that users chose."""

from __future__ import annotations

import re

# Sequences of ECMA-48 that terminals obey: CSI (colours, cursor), strings (OSC sets the title), two-byte escapes.
_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~]")
# What is left of the control characters but newline and tab, and the marks that reverse the direction of writing.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """Return a text that no terminal obeys: without escape sequences, and with other control characters spelt out."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], _SEQUENCE.sub("", text.replace("\r\n", "\n")))
