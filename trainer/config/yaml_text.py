"""YAML as people mean it: `12:00:00` is text, not a number to base 60, which YAML 1.1 makes of it (43200)."""

from __future__ import annotations

import re
from typing import Any

import yaml

# The numbers of YAML 1.1 (yaml.org/type/int.html, float.html) without those to base 60, as in YAML 1.2.
_INT = re.compile(r"[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+")
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_NUMBERS = {"tag:yaml.org,2002:int": _INT, "tag:yaml.org,2002:float": _FLOAT}


class _Loader(yaml.SafeLoader):
    """The safe loader with numbers of its own."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name and shape
        first: [
            (tag, re.compile(f"(?:{_NUMBERS[tag].pattern})\\Z") if tag in _NUMBERS else known) for tag, known in row
        ]
        for first, row in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def parse_yaml(text: str) -> Any:
    """Read one document. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # noqa: S506 - a subclass of the safe loader
