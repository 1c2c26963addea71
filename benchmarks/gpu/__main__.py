"""Measure on one GPU what a CPU cannot tell, most valuable first, within a time limit.

    python -m benchmarks.gpu --out gpu              eight minutes on an H100 or H200
    python -m benchmarks.gpu --tiny --device cpu    the same code on a processor, in a minute

Every section has a share of the time and is skipped, aloud, where too little is left. One that fails says why, and the
others go on. DIR/gpu.json has all figures; DIR/gpu.md is the table for docs/benchmarks/gpu.md. DeepSpeed,
transformers and others are measured where they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu import documents, gaps, memory, parity, saving, throughput
from benchmarks.gpu.setting import Row, Setting

PACKAGES = ("torch", "triton", "deepspeed", "transformers", "accelerate")


@dataclass(frozen=True)
class Section:
    """`seconds` is what it takes on an H100: with less left it is skipped."""

    name: str
    seconds: float
    measure: Callable[[Setting], list[Row]]


SECTIONS = (
    Section("parity", 40, parity.measure),
    Section("throughput", 150, throughput.measure),
    Section("gaps", 30, gaps.measure),
    Section("documents", 40, documents.measure),
    Section("memory", 60, memory.measure),
    Section("saving", 30, saving.measure),
)


def run(setting: Setting, limit: float, names: list[str]) -> dict[str, dict[str, object]]:
    """Measure the sections that fit into `limit` seconds, and say of each what came of it."""
    until = time.monotonic() + limit
    found: dict[str, dict[str, object]] = {}
    for section in SECTIONS:
        if section.name not in names:
            continue
        left, began = until - time.monotonic(), time.monotonic()
        if left < section.seconds and not setting.tiny:
            found[section.name] = {"skipped": f"{left:.0f} s are left, it takes {section.seconds:.0f}"}
        else:
            try:
                found[section.name] = {"rows": section.measure(setting)}
            except Exception as error:
                traceback.print_exc()
                found[section.name] = {"failed": f"{type(error).__name__}: {error}"}
            found[section.name]["seconds"] = round(time.monotonic() - began, 1)
        print(f"\n{heading(section.name, found[section.name])}", flush=True)
    return found


def heading(name: str, result: dict[str, object]) -> str:
    """Return a section in Markdown: a table, or why there is none."""
    if "rows" not in result:
        kind = "skipped" if "skipped" in result else "failed"
        return f"## {name}\n\n{kind}: {result[kind]}"
    rows = result["rows"]
    assert isinstance(rows, list)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"## {name} ({result['seconds']} s)", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(shown(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def shown(value: object) -> str:
    """Return a figure with four digits."""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def versions() -> dict[str, str]:
    """Return the versions of what is installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def main() -> int:
    """Entry point. Returns 1 where a section failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="models of some thousand parameters: does the script run?")
    parser.add_argument("--seconds", type=float, default=480.0, help="for all sections together")
    parser.add_argument("--sections", nargs="+", choices=[s.name for s in SECTIONS], default=[s.name for s in SECTIONS])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="directory of gpu.json and gpu.md")
    options = parser.parse_args()
    if options.device == "cpu" and not options.tiny:
        parser.error("on a processor only --tiny ends in a reasonable time")
    os.environ["DS_ACCELERATOR"] = options.device
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    about = {
        "card": torch.cuda.get_device_name(device) if options.device == "cuda" else "none: a processor",
        "date": datetime.now(UTC).date().isoformat(),
        "python": sys.version.split()[0],
        **versions(),
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()), flush=True)
    found = run(Setting(device, options.tiny), options.seconds, options.sections)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps({"about": about, "sections": found}, indent=1) + "\n")
    text = ["# " + about["card"], "", ", ".join(f"{key} {value}" for key, value in about.items())]
    text += [f"\n{heading(name, result)}" for name, result in found.items()]
    (options.out / "gpu.md").write_text("\n".join(text) + "\n")
    print(f"\n{options.out / 'gpu.json'} and gpu.md are written")
    return int(any("failed" in result for result in found.values()))


if __name__ == "__main__":
    sys.exit(main())
