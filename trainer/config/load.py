"""From YAML files and `--set` overrides to a RunConfig.

A section is a mapping, or the name of a file: `model: 10M` is `configs/model/10M.yaml`. A mapping may start
from a file and change parts of it: `model: {base: 10M, context_length: 1024}`. A run may do the same with
`base: <run>`. Later wins: base, then the file itself, then `--set`.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import yaml

from trainer.config.base import parse_section
from trainer.config.run import RunConfig
from trainer.config.yaml_text import parse_yaml
from trainer.errors import UserError, did_you_mean

NAMED_SECTIONS = ("model", "data")

# Two ways to say one thing: the one that is laid above removes the one below.
REPLACES = {
    "steps": ("tokens",),
    "tokens": ("steps",),
    "size": ("d_model", "n_layers", "n_heads"),
}


def configs_root() -> Path:
    """Return the directory of named configurations: $ESCALA_CONFIGS, ./configs, or the one beside the package."""
    if "ESCALA_CONFIGS" in os.environ:
        return Path(os.environ["ESCALA_CONFIGS"])
    here = Path("configs")
    return here if here.is_dir() else Path(__file__).resolve().parents[2] / "configs"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UserError with the line where the file cannot be read."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}{_nearby_files(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory, a YAML file is needed") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{path}{place}: not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {type(values).__name__}")
    return values


def _nearby_files(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return did_you_mean(path.name, [p.name for p in path.parent.glob("*.yaml")])


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return `below` with the values of `above` laid over it, mappings merged key by key (see `REPLACES`)."""
    merged = copy.deepcopy(below)
    for replaced in (other for key, others in REPLACES.items() if key in above for other in others):
        merged.pop(replaced, None)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged


def resolve_base(values: Any, section: str, where: str) -> dict[str, Any]:
    """Replace a name, or a mapping with `base`, by the mapping that it stands for."""
    if isinstance(values, str | int):
        values = {"base": str(values)}
    if not isinstance(values, dict):
        raise UserError(f"{where}: {section!r} is a mapping or the name of a file, not {values!r}")
    if "base" not in values:
        return values
    own = {key: value for key, value in values.items() if key != "base"}
    directory = configs_root() / section
    name = str(values["base"])
    path = Path(name) if name.endswith((".yaml", ".yml")) else directory / f"{name}.yaml"
    if not path.exists():
        known = [p.stem for p in directory.glob("*.yaml")]
        raise UserError(f"{where}: there is no {section} {name!r} in {directory}{did_you_mean(name, known)}")
    return merge(resolve_base(read_yaml(path), section, str(path)), own)


def set_values(values: dict[str, Any], assignments: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Apply `model.n_layers=4` assignments. Values are read as YAML. Raises UserError on a bad assignment."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment!r}: expected key=value, such as model.n_layers=4")
        try:
            value = parse_yaml(text)
        except yaml.YAMLError:
            raise UserError(f"--set {assignment!r}: the value is not valid YAML") from None
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        values = merge(_open_named(values, key.split(".")[0]), value)
    return values


def _open_named(values: dict[str, Any], key: str) -> dict[str, Any]:
    """Turn `model: 10M` into `model: {base: 10M}` where one of its keys is about to be set."""
    if key in NAMED_SECTIONS and isinstance(values.get(key), str | int):
        return {**values, key: {"base": str(values[key])}}
    return values


def run_from_values(values: dict[str, Any], where: str, assignments: tuple[str, ...] | list[str] = ()) -> RunConfig:
    """Resolve names, apply overrides and validate. Raises UserError."""
    values = set_values(resolve_base(values, "run", where), assignments)
    for section in NAMED_SECTIONS:
        if section in values:
            values = {**values, section: resolve_base(values[section], section, where)}
    return parse_section(RunConfig, values, where)


def load_run(path: Path, assignments: tuple[str, ...] | list[str] = ()) -> RunConfig:
    """Read one run configuration. A file without a `name` takes the file's own."""
    values = read_yaml(path)
    values.setdefault("name", path.stem)
    return run_from_values(values, str(path), assignments)


def dump(config: RunConfig) -> str:
    """Return the resolved configuration as YAML that loads to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
