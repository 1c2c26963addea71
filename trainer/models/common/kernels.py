"""What kernels of a GPU are made with."""

from __future__ import annotations

from importlib.util import find_spec

HAS_TRITON = find_spec("triton") is not None  # not imported for it: a processor needs none
