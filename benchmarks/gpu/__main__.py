"""Measure on one GPU what a CPU cannot tell, most valuable first, within a time limit.

    python -m benchmarks.gpu --out gpu              eight minutes on an H100 or H200
    python -m benchmarks.gpu --tiny --device cpu    the same code on a processor, in a minute

Every section has a share of the time. It is skipped, aloud, where too little is left, and begins nothing new after
its share. One that fails says why, and the others go on. DIR/gpu.json has all figures, and is written after each
section; DIR/gpu.md is the table for docs/benchmarks/gpu.md, DIR/rates.json has the planner's rates for the card.
DeepSpeed, transformers, flash-linear-attention and others are measured where they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu.setting import Row, Setting

PACKAGES = ("torch", "triton", "deepspeed", "transformers", "accelerate", "flash-linear-attention")
Tables = list[Row] | dict[str, list[Row]]  # of a section: its own, or several by name


@dataclass(frozen=True)
class Section:
    """`seconds` is what it takes on an H100: with less left it is skipped.

    Its module, one of this package, is imported when it is measured: what it needs and is not there fails it alone.
    """

    name: str
    seconds: float
    module: str = ""  # default: its name
    function: str = "measure"

    def measure(self, setting: Setting) -> Tables:
        """Return its tables."""
        measure: Callable[[Setting], Tables] = getattr(
            import_module(f"benchmarks.gpu.{self.module or self.name}"), self.function
        )
        return measure(setting)


SECTIONS = (  # most valuable first
    Section("parity", 35),
    Section("throughput", 130),
    Section("gaps", 25),
    Section("sweep", 80),
    Section("memory", 45),
    Section("larger", 50, "throughput", "measure_larger"),
    Section("documents", 25),
    Section("first_step", 55),
    Section("families", 35),
    Section("saving", 20),
)


@dataclass
class Report:
    """What came of the sections so far, and the files that say so."""

    out: Path
    about: dict[str, str]
    sections: dict[str, dict[str, object]] = field(default_factory=dict)

    def add(self, name: str, result: dict[str, object]) -> None:
        """Print a section and write the files, so that whatever ends this process ends no more than one section."""
        self.sections[name] = result
        print(f"\n{heading(name, result)}", flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        values = {"about": self.about, "sections": self.sections}
        (self.out / "gpu.json").write_text(json.dumps(values, indent=1) + "\n")
        text = ["# " + self.about["card"], "", ", ".join(f"{key} {value}" for key, value in self.about.items())]
        text += [f"\n{heading(name, result)}" for name, result in self.sections.items()]
        (self.out / "gpu.md").write_text("\n".join(text) + "\n")


def run(setting: Setting, report: Report, limit: float, names: list[str]) -> None:
    """Measure the sections that fit into `limit` seconds, and report of each what came of it."""
    until = time.monotonic() + limit
    for section in SECTIONS:
        if section.name not in names:
            continue
        left, began = until - time.monotonic(), time.monotonic()
        if left < section.seconds and not setting.tiny:
            skipped = f"{left:.0f} s are left, it takes up to {section.seconds:.0f}"
            report.add(section.name, {"skipped": skipped})
            continue
        share = float("inf") if setting.tiny else began + section.seconds
        of_section = replace(setting, until=share, left_out=[])
        try:
            tables = section.measure(of_section)
        except Exception as error:
            traceback.print_exc()
            report.add(section.name, {"failed": f"{type(error).__name__}: {error}"})
            continue
        seconds = round(time.monotonic() - began, 1)
        for name, rows in ({section.name: tables} if isinstance(tables, list) else tables).items():
            left_out = of_section.left_out if name == section.name else []
            report.add(name, {"rows": rows, "seconds": seconds, **({"left_out": left_out} if left_out else {})})


def heading(name: str, result: dict[str, object]) -> str:
    """Return a section in Markdown: a table and what there was no time for, or why there is none."""
    if "rows" not in result:
        kind = "skipped" if "skipped" in result else "failed"
        return f"## {name}\n\n{kind}: {result[kind]}"
    rows, left_out = result["rows"], result.get("left_out")
    assert isinstance(rows, list)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"## {name} ({result['seconds']} s)", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(shown(row.get(column, "")) for column in columns) + " |" for row in rows]
    if isinstance(left_out, list):
        lines += ["", f"Not measured, for its time was over: {', '.join(left_out)}"]
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
    setting, report = Setting(device, options.tiny, options.out), Report(options.out, about)
    setting.join()
    run(setting, report, options.seconds, options.sections)
    print(f"\n{options.out / 'gpu.json'} and gpu.md are written")
    return int(any("failed" in result for result in report.sections.values()))


if __name__ == "__main__":
    sys.exit(main())
