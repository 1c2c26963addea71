"""How long `escala watch` takes over many long runs, and how much memory: first screen, refresh, page.

    python -m benchmarks.watch                       200 runs of 100,000 lines each
    python -m benchmarks.watch --runs 1000 --lines 2000

Makes the runs in a temporary directory (10 different records, linked by the others: 200 x 100,000 lines are 10 GB), has
a fifth of them grow between looks, and starts every measured command as a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DISTINCT = 10  # records; the other runs link to one of them, but for those that grow
GROW = 5  # every fifth run trains on
LOOKS = 8

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from launch.show.console import PlainConsole
from launch.watch.find_runs import find_runs
from launch.watch.live import Screen, page
from launch.watch.run_view import Reader
root, looks = Path(sys.argv[1]), int(sys.argv[2])
reader, console, screen = Reader(lambda: find_runs(root)), PlainConsole(width=80, height=24), Screen()
for _ in range(looks):
    began, cpu = time.perf_counter(), time.process_time()
    with console.capture():
        console.print(page(reader.views(), screen, 80, 24))
    print(json.dumps([time.perf_counter() - began, time.process_time() - cpu]), flush=True)
    sys.stdin.readline()
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""


def row(step: int, per_step: int) -> bytes:
    """Return a line as training writes it."""
    loss = 2.5 + 8.0 / (1 + step) ** 0.35 + random.gauss(0, 0.02)
    values = {
        "kind": "train", "step": step, "tokens": step * per_step, "loss": loss, "grad_norm": 0.51234, "lr": 6.43e-4,
        "epoch": 0.1677, "tokens_per_second": 33016.41, "step_seconds": 0.12612, "step_seconds_p95": 0.13402,
        "data_seconds": 0.00021, "mfu": 0.279, "memory_peak": 504_483_840, "skipped": 0, "seconds_left": 9000.0,
        "wall_seconds": step * 0.126, "gpu_seconds": step * 0.252, "train_seconds": step * 0.12, "cost": step * 1e-4,
        "start_seconds": 1.4, "wait_seconds": 0.01, "save_seconds": 0.0, "evaluation_seconds": 0.0,
        "lost_seconds": 0.0, "goodput": 0.948,
    }  # fmt: skip
    return json.dumps(values).encode() + b"\n"


def plant(root: Path, runs: int, lines: int) -> None:
    """Make runs under a sweep."""
    templates: list[Path] = []
    for index in range(runs):
        run = root / "ladder" / "cells" / f"d_model={64 + 32 * (index % 40)}-seed={index}-{index:08x}"
        (run / "logs" / "1").mkdir(parents=True)
        (run / "config.yaml").write_text("name: x\n")
        plan = {
            "steps": lines + 10_000, "tokens_per_step": 4096, "parameters": {"total": 10**6 * (1 + index % 40)},
            "flops_per_token": {"total": 6 * 10**6 * (1 + index % 40)},
        }  # fmt: skip
        (run / "plan.json").write_text(json.dumps(plan))
        (run / "run.json").write_text(json.dumps({"host": "node7", "pid": 1}))
        (run / "events.jsonl").write_text('{"time": "2026-01-01T00:00:00+00:00", "event": "started", "step": 0}\n')
        grows = index % GROW == 0
        (run / "status").write_text("running\n" if grows else "done\n")
        record = run / "metrics.jsonl"
        if len(templates) < DISTINCT:
            with record.open("wb") as file:
                file.writelines(row(step, 4096) for step in range(1, lines + 1))
            templates.append(record)
        elif grows:  # a file of its own, whose blocks a file system that can shares
            subprocess.run(["cp", "--reflink=auto", templates[index % DISTINCT], record], check=True)
        else:
            os.link(templates[index % DISTINCT], record)


def grow(records: list[Path], step: int) -> None:
    for record in records:
        with record.open("ab") as file:
            file.write(row(step, 4096))


def looks(root: Path, growing: list[Path], lines: int) -> dict[str, float]:
    """Measure looks of one process: the first one, those after it while runs grow, and its peak of memory."""
    command = [sys.executable, "-c", MEASURE, str(root), str(LOOKS)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    times = []
    for look in range(LOOKS):
        times.append(json.loads(process.stdout.readline()))
        grow(growing, lines + look + 1)
        process.stdin.write("\n")
        process.stdin.flush()
    memory = json.loads(process.stdout.readline())
    process.wait()
    return {
        "first look without the start of Python, s": times[0][0],
        "refresh, s (median)": statistics.median(wall for wall, _ in times[1:]),
        "refresh, s of CPU (median)": statistics.median(cpu for _, cpu in times[1:]),
        "memory, MB": memory / 1e6,
    }


def command(root: Path, *words: str) -> tuple[float, float]:
    """Return the seconds of a whole command, the start of Python included, and those of CPU: the best of three."""
    times, cpu = [], []
    for _ in range(3):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "launch", "watch", "--runs", str(root), *words], check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(time.perf_counter() - began)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times), min(cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--keep", type=Path, help="make the runs there, and leave them for another time")
    asked = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        root = asked.keep or Path(temporary)
        if not (root / "ladder").exists():
            plant(root, asked.runs, asked.lines)
        running = (s for s in root.glob("ladder/cells/*/status") if s.read_text() == "running\n")
        growing = [status.with_name("metrics.jsonl") for status in running]
        size = sum(record.stat().st_size for record in root.glob("ladder/cells/*/metrics.jsonl"))
        found = {"runs": asked.runs, "lines of each": asked.lines, "size of the records, GB": size / 1e9}
        found |= dict(zip(("first screen, s", "first screen, s of CPU"), command(root, "--once"), strict=True))
        found |= looks(root, growing, asked.lines)
        page = Path(temporary) / "page"
        found |= dict(zip(("page, s", "page, s of CPU"), command(root, "--html", str(page), "--once"), strict=True))
        found["page, KB"] = (page / "index.html").stat().st_size / 1e3
    for name, value in found.items():
        print(f"{name:42} {value:,.3g}" if isinstance(value, float) else f"{name:42} {value:,}")


if __name__ == "__main__":
    main()
