"""What launching costs: the command line, status of many jobs, the first step of a run, and a sweep of short runs.

    python -m benchmarks.launching            all four
    python -m benchmarks.launching sweep      one of them: cli, status, start, sweep

Each figure stands beside its peer, measured in the same run: a bare Python, bare `torchrun`, one process for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from launch.backends import registry
from launch.backends.local import LocalBackend
from launch.job import JobSpec

ROOT = Path(__file__).resolve().parents[1]
ESCALA = [sys.executable, "-m", "launch"]
TINY = str(ROOT / "configs" / "run" / "tiny.yaml")

RUN = """
import sys, time
import torch, deepspeed
began = time.time()
weights = torch.randn(64, 64)
while time.time() - began < float(sys.argv[1]):
    weights = torch.tanh(weights @ weights)
"""

FIRST_STEP = """
import os, sys, time
import torch, deepspeed
import torch.distributed as dist
dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
if os.environ["RANK"] == "0":
    open(sys.argv[1], "w").write(str(time.time()))
"""


def seconds(command: list[str], times: int, **more: object) -> float:
    """Return the median wall time of a command."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, **more)  # type: ignore[call-overload]
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def cli() -> dict[str, float]:
    """Time of commands that a person waits for."""
    return {
        "python -c pass": seconds([sys.executable, "-c", "pass"], 7),
        "escala --help": seconds([*ESCALA, "--help"], 7),
        "escala render (slurm)": seconds([*ESCALA, "render", TINY, "--cluster", "slurm"], 7),
        "escala render (kubernetes)": seconds([*ESCALA, "render", TINY, "--cluster", "kubernetes"], 7),
    }


def status(jobs: int = 1000) -> dict[str, float]:
    """`escala jobs` over so many submitted runs; a stub answers for squeue, as quickly as a shell can."""
    with tempfile.TemporaryDirectory() as scratch:
        runs, stub = Path(scratch) / "runs", Path(scratch) / "bin" / "squeue"
        stub.parent.mkdir()
        (Path(scratch) / "answer").write_text("".join(f"{i}|RUNNING|0|None|n1|\n" for i in range(jobs)))
        stub.write_text(f'#!/bin/sh\nexec cat "{scratch}/answer"\n')
        stub.chmod(0o755)
        for i in range(jobs):
            registry.record(JobSpec(f"r{i}", ("-m", "x"), runs / f"r{i}"), str(i), cluster="slurm", backend="slurm")
        environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
        command = [*ESCALA, "jobs", "--runs", str(runs), "--json"]
        return {f"escala jobs ({jobs} jobs)": seconds(command, 3, env=environment)}


def start(times: int = 3) -> dict[str, float]:
    """From the command to the first all-reduce of two ranks: our local backend and bare torchrun, same script."""
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as scratch:
        script, mark = Path(scratch) / "first.py", Path(scratch) / "mark"
        script.write_text(FIRST_STEP)
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        driver = (
            "import sys; from pathlib import Path; from launch.backends.local import LocalBackend;"
            "from launch.job import JobSpec; b = LocalBackend(2);"
            "j = b.submit(JobSpec('first', tuple(sys.argv[1:]), Path(sys.argv[2] + '.run'), ranks_per_node=2));"
            "[None for _ in iter(lambda: (b.wait(1), b.status([j])[j].state.final)[1], True)]; b.close()"
        )
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        for _ in range(times):
            for command, into in (([sys.executable, "-c", driver], ours), (torchrun, theirs)):
                began = time.time()
                subprocess.run([*command, str(script), str(mark)], check=True, cwd=ROOT, env=environment)
                into.append(float(mark.read_text()) - began)
    return {"first step, local backend": statistics.median(ours), "first step, torchrun": statistics.median(theirs)}


def sweep(cells: int = 24, length: float = 5.0, slots: int = 2) -> dict[str, float]:
    """Wall time of a sweep of short runs, and the share of the slots' time that was spent training."""
    with tempfile.TemporaryDirectory() as scratch:
        script = Path(scratch) / "run.py"
        script.write_text(RUN)
        command = (str(script), str(length))
        began = time.perf_counter()
        with LocalBackend(slots) as backend:
            jobs = [backend.submit(JobSpec(f"c{i}", command, Path(scratch) / f"c{i}")) for i in range(cells)]
            while not all(status.state.final for status in backend.status(jobs).values()):
                backend.wait(1.0)
        warm = time.perf_counter() - began
        cold = one_process_each([sys.executable, *command], cells, slots)
    ideal = cells * length / slots
    return {
        "sweep, warm ranks": warm,
        "share training, warm ranks": ideal / warm,
        "sweep, one process a run": cold,
        "share training, one process a run": ideal / cold,
    }


def one_process_each(command: list[str], cells: int, slots: int) -> float:
    """Return the wall time with a new Python for each run, as many at a time."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    began, running, left = time.perf_counter(), [], cells
    while left or running:
        while left and len(running) < slots:
            running.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
            left -= 1
        time.sleep(0.02)
        running = [process for process in running if process.poll() is None]
    return time.perf_counter() - began


def main() -> None:
    """Entry point."""
    parts = {"cli": cli, "status": status, "start": start, "sweep": sweep}
    parser = argparse.ArgumentParser(description="What launching costs.")
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"of {', '.join(parts)}")
    for part in parser.parse_args().parts:
        for name, value in parts[part]().items():
            print(json.dumps({"what": name, "value": round(value, 3)}), flush=True)


if __name__ == "__main__":
    main()
