"""From YAML files and `--set` overrides to a RunConfig.

A section is a mapping, or the name of a file: `model: 10M` is `configs/model/10M.yaml`. A mapping may start
from a file and change parts of it: `model: {base: 10M, context_length: 1024}`. A run may do the same with
`base: <run>`. Later wins: base, then the file itself, then `--set`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import yaml

from trainer.config.base import parse_section
from trainer.config.merging import merge
from trainer.config.run import RunConfig
from trainer.config.yaml_text import parse_yaml
from trainer.contract.errors import UserError, did_you_mean

NAMED_SECTIONS = ("model", "data")


def configs_roots() -> list[Path]:
    """Return where named configurations are looked for: $ESCALA_CONFIGS or ./configs, then those that Escala ships."""
    shipped = Path(__file__).resolve().parents[2] / "configs"  # beside the packages, in a checkout and in a wheel
    own = Path(os.environ.get("ESCALA_CONFIGS", "configs"))
    return [own, shipped] if own.is_dir() and own.resolve() != shipped else [shipped]


SEAL = "# Written by Escala. SHA-256 of the lines below: "


def config_file(kind: str, name: str, where: str = "") -> Path:
    """Return the file that `name` stands for: itself where it ends with .yaml, else configs/<kind>/<name>.yaml.

    Raises UserError, which begins with `where`, for a name that no directory of configurations has.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    directories = [root / kind for root in configs_roots()]
    for directory in directories:
        if (path := directory / f"{name}.yaml").exists():
            return path
    prefix, places = f"{where}: " if where else "", " or ".join(map(str, directories))
    raise UserError(f"{prefix}there is no {kind} {name!r} in {places}{did_you_mean(name, config_names(kind))}")


def config_names(kind: str) -> list[str]:
    """Return the names of all configurations of a kind, such as `cluster`, sorted."""
    return sorted({path.stem for root in configs_roots() for path in (root / kind).glob("*.yaml")})


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UserError with the line where the file cannot be read."""
    try:
        return parse_mapping(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}{_nearby_files(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a directory, a YAML file is needed") from None


def parse_mapping(content: bytes, where: str) -> dict[str, Any]:
    """Read a YAML mapping from what a file holds. Raises UserError with `where` and the line for anything else."""
    try:
        values = parse_yaml(content.decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # not UTF-8, a date that is none, nested without end
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UserError(f"{where}{place}: not valid YAML: {problem}") from None
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a mapping of keys to values, found {type(values).__name__}")
    return values


def _nearby_files(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return did_you_mean(path.name, [p.name for p in path.parent.glob("*.yaml")])


def resolve_base(values: object, section: str, where: str) -> dict[str, Any]:
    """Replace a name, or a mapping with `base`, by the mapping that it stands for."""
    if isinstance(values, str | int):
        values = {"base": str(values)}
    if not isinstance(values, dict):
        raise UserError(f"{where}: {section!r} is a mapping or the name of a file, not {values!r}")
    if "base" not in values:
        return values
    own = {key: value for key, value in values.items() if key != "base"}
    path = config_file(section, str(values["base"]), where)
    return merge(resolve_base(read_yaml(path), section, str(path)), own)


def set_values(values: dict[str, Any], assignments: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Apply `model.n_layers=4` assignments. Values are read as YAML. Raises UserError on a bad assignment.

    A number in a key is a place in a list: `data.sources.0.min_chars=100` changes the first source.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {assignment!r}: expected key=value, such as model.n_layers=4")
        try:
            value = parse_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError):
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


def run_from_values(
    values: dict[str, Any], where: str, assignments: tuple[str, ...] | list[str] = (), *, written: bool = False
) -> RunConfig:
    """Resolve names, apply overrides and validate. `written`: see `parse_section`. Raises UserError."""
    values = set_values(resolve_base(values, "run", where), assignments)
    for section in NAMED_SECTIONS:
        if section in values:
            values = {**values, section: resolve_base(values[section], section, where)}
    optim = values.get("optim")
    if isinstance(optim, dict) and isinstance(optim.get("recipe"), str):
        values = {**values, "optim": {**optim, "recipe": read_yaml(config_file("recipe", optim["recipe"], where))}}
    return parse_section(RunConfig, values, where, written=written)


def load_run(path: Path, assignments: tuple[str, ...] | list[str] = ()) -> RunConfig:
    """Read one run configuration, from a file or by its name in configs/run. One without a `name` takes the file's."""
    path = path if path.exists() else config_file("run", str(path))
    values = read_yaml(path)
    values.setdefault("name", path.stem)
    written = path.read_text(encoding="utf-8").startswith(SEAL) and not assignments
    return run_from_values(values, str(path), assignments, written=written)


def dump(config: RunConfig) -> str:
    """Return the resolved configuration as YAML that loads to an equal one, with its own hash in the first line."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    return f"{SEAL}{_hash(text)}\n{text}"


def load_written(path: Path) -> RunConfig:
    """Read a configuration that `dump` wrote, as `load_run` does.

    Raises UserError where a line was changed since. A file without the line of the hash is taken as it is.
    """
    config = load_run(path)
    first, _, rest = path.read_text(encoding="utf-8").partition("\n")
    if first.startswith(SEAL) and first.removeprefix(SEAL) != _hash(rest):
        raise UserError(
            f"{path} is not as it was written: it is damaged, or was changed by hand. Have it written anew (escala "
            "train, submit or sweep), or take out its first line to use it as it is"
        )
    return config


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
