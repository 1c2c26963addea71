"""What launching costs: the command line, status of many jobs, the first step of a run, and a sweep of short runs.

    python -m benchmarks.launching            all four
    python -m benchmarks.launching sweep      one of them: cli, status, start, sweep

Each figure stands beside its peer, measured in the same run: a bare Python, bare `torchrun`, one process for each run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from launch.cluster import registry
from launch.cluster.job import JobSpec

ROOT = Path(__file__).resolve().parents[1]
ESCALA = [sys.executable, "-m", "launch"]
TINY = str(ROOT / "configs" / "run" / "tiny.yaml")

DATA = {
    "name": "small",
    "sources": [{"path": "embedded", "max_bytes": "400k"}],
    "tokenizer": {"vocab_size": 512, "sample_bytes": "400k"},
    "held_out_fraction": 0.2,
}
SHARED = {
    "model": {"size": "25k", "context_length": 64},
    "batch": {"tokens_per_step": 512},
    "evaluation": {"tokens": "2k"},
    "device": "cpu",
}
CPU = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


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
    """From the command to the first recorded step of two ranks: `escala train`, and torchrun of the same script."""
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) / "runs"
        config = write(Path(scratch) / "run.yaml", {**shared(scratch), "name": "first", "steps": 3,
                                                    "tracking": {"log_every": "1 steps"}})  # fmt: skip
        escala = [*ESCALA, "train", str(config), "--ranks", "2", "--runs", str(runs)]
        subprocess.run(escala, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)  # data are prepared once
        resolved = (runs / "first" / "config.yaml").read_text()
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        bare = [*torchrun, "-m", "trainer.train", "--run-dir", str(runs / "first")]
        for _ in range(times):
            for command, into in ((escala, ours), (bare, theirs)):
                shutil.rmtree(runs / "first")
                (runs / "first").mkdir()
                if command is bare:
                    (runs / "first" / "config.yaml").write_text(resolved)
                into.append(until_first_row(command, runs / "first" / "metrics.jsonl"))
    ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
    return {"first step, escala train": ours_s, "first step, torchrun": theirs_s, "overhead": ours_s - theirs_s}


def until_first_row(command: list[str], metrics: Path) -> float:
    """Start a command, return the seconds until it has recorded a step, and wait for its end."""
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **CPU}, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as process:  # fmt: skip
        while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None:
            time.sleep(0.01)
        taken = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{command} ended with code {process.returncode}")
    return taken


def sweep(cells: int = 24, length: float = 5.0, slots: int = 2) -> dict[str, float]:
    """`escala sweep run` over runs of some seconds: the share of the slots' time that was spent in training steps.

    The peer is one process for each run, as many at a time, of the very same runs.
    """
    with tempfile.TemporaryDirectory() as scratch:
        step_seconds = training(ladder(scratch, "pilot", slots, 300, slots)[0]) / (300 * slots)
        done, warm = ladder(scratch, "sweep", cells, round(length / step_seconds), slots)
        alone = [again(run, Path(scratch) / "alone") for run in done]
        cold = one_process_each(alone, slots)
        trained, trained_alone = training(done), training(alone)
    return {
        "seconds of training in a cell": trained / cells,
        "sweep, warm ranks": warm,
        "share training, warm ranks": trained / slots / warm,
        "sweep, one process a run": cold,
        "share training, one process a run": trained_alone / slots / cold,
    }


def ladder(scratch: str, name: str, cells: int, steps: int, slots: int) -> tuple[list[Path], float]:
    """Run a sweep that differs in its seeds alone; return its run directories and its wall time."""
    values = {"name": name, "slots": slots, "run": {**shared(scratch), "steps": steps},
              "vary": {"seed": list(range(cells))}}  # fmt: skip
    config, runs = write(Path(scratch) / f"{name}.yaml", values), Path(scratch) / "runs"
    began = time.perf_counter()
    subprocess.run([*ESCALA, "sweep", "run", str(config), "--runs", str(runs)], check=True, cwd=ROOT,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    taken = time.perf_counter() - began
    return sorted((runs / name / "cells").iterdir()), taken


def training(run_dirs: list[Path]) -> float:
    """Return the seconds that runs have spent in training steps."""
    results = [json.loads((run_dir / "result.json").read_text()) for run_dir in run_dirs]
    return float(sum(result["tokens"] / result["tokens_per_second"] for result in results))


def again(run_dir: Path, root: Path) -> Path:
    """Lay out a run anew, to be run once more."""
    anew = root / run_dir.name
    anew.mkdir(parents=True)
    shutil.copy(run_dir / "config.yaml", anew)
    return anew


def one_process_each(run_dirs: list[Path], slots: int) -> float:
    """Return the wall time with a new Python for each run, as many at a time."""
    began, left = time.perf_counter(), list(run_dirs)
    running: list[subprocess.Popen[bytes]] = []
    while left or running:
        while left and len(running) < slots:
            command = [sys.executable, "-m", "trainer.train", "--run-dir", str(left.pop(0))]
            running.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **CPU}, stderr=subprocess.DEVNULL))
        time.sleep(0.02)
        running = [process for process in running if process.poll() is None]
    return time.perf_counter() - began


def shared(scratch: str) -> dict[str, object]:
    """Return what all these runs have in common."""
    return {**SHARED, "data": {**DATA, "root": f"{scratch}/data"}}


def write(path: Path, values: dict[str, object]) -> Path:
    """Write a YAML file."""
    path.write_text(yaml.safe_dump(values))
    return path


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
