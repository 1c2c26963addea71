"""Mutated configurations through the commands that read them: each ends well or with one sentence, none in a traceback.

    python -m tests.launch.mutated_configs --number 4000 --seed 0

Every case is a function of its number, so a failure is told by its number and can be run again by itself. Preparing
data is left out: it is a process of its own, and a small set stands for whatever a case names.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from launch.cli import main
from trainer.config.load import load_run
from trainer.data.store.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30  # seconds of one case
COMMANDS = ("plan", "train", "sweep", "render")
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 1000, 2**31, 2**63, 2**200, -(2**63), 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "0", "-1", "1e400", "1e999999", "nan", "inf", "5%", "101%",
    "-5%", "0 steps", "1 step", "3 tokens", "1e300 steps", "1e300 tokens", "12k", "3k", "6k", "1T", "9999999T", "0.5k",
    "a" * 400, "../x", "..", "/etc/passwd", "a/b", "-x", ".x", "a\nb", "\t", "\u202e", "\0", "é漢🚀", "{x}", "[1",
    "null", "yes", "no", "~", "!!python/object:os.system", [], [[]], [None], [1, "a", {}], ["x"] * 50, {},
    {"base": "x"}, {"a": {"b": {"c": 1}}}, {1: 2}, {None: None}, {"": ""}, "tiny", "quickstart", "10M", "auto", "never",
    "(", "[a-z", "(a+)+$", "2026-11-28", "$HOME", "${X}", "1_0", "0x10", "1:30", "12:34:56", "۳", "１２",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One mutated call."""

    number: int
    words: list[str]  # of the command line
    file: Path
    content: bytes


def make(number: int, seed: int, directory: Path) -> Case:
    """Return the case of this number: a command, its file with a few mutations, and now and then an odd --set."""
    chance = random.Random(f"{seed}/{number}")  # not for secrets
    command = COMMANDS[number % len(COMMANDS)]
    values = sweep_values() if command == "sweep" else run_values()
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        mutate(values, chance)
    content = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
    if chance.random() < 0.15:
        content = spoil(content, chance)
    file = directory / f"{chance.choice(('case', 'case', 'odd name', '-x', '.hidden'))}.yaml"
    cluster = chance.choice(("local", "slurm", "kubernetes", "ssh"))
    calls = {"plan": "plan", "train": "train --dry-run", "sweep": "sweep run --dry-run"}
    words = [*calls.get(command, f"render --cluster {cluster}").split(), str(file)]
    words += [] if command == "plan" else ["--runs", str(directory / "runs")]
    if chance.random() < 0.3:
        words += ["--set", f"{chance.choice(keys(run_values()))}={odd_text(chance)}"]
    if command == "plan" and chance.random() < 0.3:
        words += ["--world", str(chance.choice((1, 2, 3, 8, 1024)))]
        words += ["--gpu", "H100-SXM"] if chance.random() < 0.5 else []
    return Case(number, words, file, content)


def run_values() -> dict[str, Any]:
    """Return a whole run, every default spelt out, with a vocabulary."""
    values = load_run(ROOT / "configs/run/tiny.yaml", ("model.vocab_size=512",)).model_dump(mode="json")
    for key in ("tokens", "steps"):
        if values[key] is None:
            del values[key]
    return values


def sweep_values() -> dict[str, Any]:
    """Return a small sweep with everything that a sweep can say."""
    run = run_values()
    del run["name"]
    for key in ("d_model", "n_layers", "n_heads"):
        del run["model"][key]
    return {
        "name": "s", "ranks": 2, "slots": 2, "run": run, "vary": {"model.size": ["12k", "25k"], "seed": [0, 1]},
        "cells": [{"model.size": "50k", "seed": 3}], "fit": {"eval_set": "held_out"},
        "layout_checks": [{"cell": {"model.size": "50k", "seed": 3}, "set": {"parallel.tensor": 2}, "tolerance": 0.01}],
    }  # fmt: skip


def places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every place in nested values: its container, and its key or index."""
    for key in list(values) if isinstance(values, dict) else range(len(values)):
        yield values, key
        if isinstance(values[key], dict | list):
            yield from places(values[key])


def keys(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Return every dotted key of nested mappings."""
    found = [f"{prefix}{key}" for key in values]
    for key, value in values.items():
        found += keys(value, f"{prefix}{key}.") if isinstance(value, dict) else []
    return found


def mutate(values: dict[str, Any], chance: random.Random) -> None:
    """Change one place: another value, a changed number, no key, an unknown key, or another place's value."""
    container, key = chance.choice(list(places(values)) or [(values, "x")])
    how = chance.random()
    if how < 0.6:
        container[key] = copy.deepcopy(chance.choice(VALUES))
    elif how < 0.75 and isinstance(container.get(key) if isinstance(container, dict) else None, int | float):
        container[key] = container[key] * chance.choice((0, -1, 2, 3, 0.5, 1e9, 1e-9))
    elif how < 0.85:
        del container[key]
    elif how < 0.93 and isinstance(container, dict):
        container[chance.choice(("x", "nmae", "size", "base", 1, ""))] = copy.deepcopy(chance.choice(VALUES))
    else:
        other, place = chance.choice(list(places(values)) or [(values, "x")])
        container[key] = copy.deepcopy(other.get(place) if isinstance(other, dict) else other[place])


def spoil(content: bytes, chance: random.Random) -> bytes:
    """Damage the bytes of a file: cut it, flip a bit, put something in, or make it another kind of file."""
    at = chance.randrange(max(1, len(content)))
    inserted = chance.choice((b"\t", b"\0", b"\xff\xfe", b"&a ", b"*a ", b": ", b"- ", b"%", b"<<: "))
    ways = (
        content[:at],
        content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :],
        content[:at] + inserted + content[at:],
        b"\xef\xbb\xbf" + content,
        content.decode("utf-8", "replace").encode("utf-16"),
        b"", b"- 1\n- 2\n", b"just a word", b"a: " * 2000, b"[" * 5000, b"--- 1\n--- 2\n", b"? [a, b]\n: 1\n" + content,
    )  # fmt: skip
    return chance.choice(ways)


def odd_text(chance: random.Random) -> str:
    """Return the value of a --set."""
    return (
        yaml.safe_dump(chance.choice(VALUES), allow_unicode=True).strip().removesuffix("...").strip().replace("\0", "")
    )


def problem_of(case: Case) -> str | None:
    """Run a case in this process; return its traceback, or what else is wrong with its end, or None."""
    case.file.write_bytes(case.content)
    out, said = io.StringIO(), io.StringIO()
    signal.alarm(PATIENCE)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            main(case.words)
    except SystemExit as stop:
        if stop.code in (0, None):
            return None
        text = said.getvalue()
        fine = stop.code == 2 and ("error: " in text or "Error: " in text or "Usage: " in text)
        return None if fine else f"exit code {stop.code}, said {text!r}"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
        case.file.unlink()
    return None


@contextlib.contextmanager
def standing_in(prepared: Path, directory: Path) -> Iterator[None]:
    """Have every configuration's data be `prepared`, the directory of a small set, and start nothing."""
    manifest = Manifest.open(str(prepared))

    def prepare(data: Any) -> Manifest:
        return manifest

    def hang(*_: object) -> None:
        raise TimeoutError(f"no end after {PATIENCE} s")

    here = Path.cwd()
    former = signal.signal(signal.SIGALRM, hang)
    environment = {"ESCALA_CONFIGS": str(ROOT / "configs"), "CUDA_VISIBLE_DEVICES": ""}
    patches = [
        mock.patch(f"launch.{module}.ensure_prepared", prepare)
        for module in ("run.data_preparation", "sweep.execute.opened")
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, environment))
        for patch in patches:
            stack.enter_context(patch)
        os.chdir(directory)
        try:
            yield
        finally:
            os.chdir(here)
            signal.signal(signal.SIGALRM, former)


def small_set(directory: Path) -> Path:
    """Prepare a small set of bytes, and return its directory."""
    from launch.run.data_preparation import ensure_prepared
    from trainer.config.data import DataConfig

    values = {
        "name": "small", "root": str(directory), "sources": [{"path": "embedded", "max_bytes": 300_000}],
        "held_out_fraction": 0.2, "tokenizer": {"kind": "bytes"},
    }  # fmt: skip
    ensure_prepared(DataConfig.model_validate(values))
    return directory / "small"


def failures(numbers: range, seed: int, prepared: Path, directory: Path) -> dict[int, str]:
    """Return the problem of each case that has one. Also checks that nothing was written but the cases' own files."""
    found = {}
    with standing_in(prepared, directory):
        for number in numbers:
            if (problem := problem_of(make(number, seed, directory))) is not None:
                found[number] = problem
            if left := [path.name for path in directory.iterdir() if path.name not in ("runs", "small")]:
                found[number] = f"{found.get(number, '')} left behind {left}"
    return found


def cli() -> int:
    """Entry point: run many cases and print the problems, each kind once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=4000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "cases").mkdir()
        numbers = range(options.first, options.first + options.number)
        found = failures(numbers, options.seed, small_set(place), place / "cases")
    kinds = Counter(problem.strip().splitlines()[-1][:160] for problem in found.values())
    for kind, number in kinds.most_common():
        first = next(n for n, problem in found.items() if problem.strip().splitlines()[-1][:160] == kind)
        print(f"--- {number} times, first in case {first}: {kind}\n{found[first][-1500:]}")
    print(f"{options.number} cases, {len(found)} with a traceback or another wrong end")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(cli())
