"""The embedded corpus: the Python standard library's sources, which carry their own documentation.

It is real text that lies on every machine that can run this program, so a first run needs no network. Files come in
the order of a hash of their names, so that the beginning of the corpus is a fair sample of it.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

# Third-party packages, and tables of characters and grammars that hold no text.
LEFT_OUT = ("site-packages", "dist-packages", "encodings", "pgen2", "__pycache__")


def files() -> list[tuple[str, Path]]:
    """Return (name, path) of each source file, in the order of the hash of the name."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        paths = (Path(folder, name) for name in names if name.endswith(".py"))
        found += [(path.relative_to(root).as_posix(), path) for path in paths]
    return sorted(found, key=lambda item: hashlib.sha256(item[0].encode()).digest())


def documents() -> Iterator[dict[str, str]]:
    """Yield one document a file. Files that are not UTF-8 (tests of encodings) and empty ones are left out."""
    for _, path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if text:
            yield {"text": text}
