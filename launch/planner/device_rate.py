"""The matrix rate of this machine's GPU, measured once for each kind and kept with the name that its driver gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from launch.planner.measured import rates_of
from trainer.contract.plain_json import DamagedFileError, read_object, to_json
from trainer.contract.run_dir import write_atomically
from trainer.plan.gpus import Gpu, find_gpu, gpu_of_driver

MEASURE = ("-m", "trainer.parallel.matrix_rate")  # prints {"name": NAME, "flops": FLOP/s}
PATIENCE = 120.0  # seconds: it imports torch
NAMES = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


def gpu_of_this_machine(named: str | None, environment: Mapping[str, str] = os.environ) -> Gpu | None:
    """Return the first GPU here, its peak such that large products take what was measured; None where none is known.

    `named` is a name of the table, for a driver whose name is not there.
    """
    driver = _said(NAMES, environment).partition("\n")[0].strip()
    gpu = find_gpu(named) if named is not None else gpu_of_driver(driver)
    rate = kept_rate(driver, environment) if driver else None
    if gpu is None or rate is None:
        return gpu
    rates = rates_of(gpu, environment)
    return replace(gpu, flops=rate / (rates.hopper if gpu.power_limited else rates.ampere))


def kept_rate(driver: str, environment: Mapping[str, str]) -> float | None:
    """Return the FLOP/s of large 16-bit products on a GPU of this name; None where it could not be measured."""
    file = rates_file(environment)
    try:
        rates = read_object(file) if file.exists() else {}
    except DamagedFileError:  # it is measured anew
        rates = {}
    if driver in rates:
        return float(rates[driver])
    try:
        found = json.loads(_said((sys.executable, *MEASURE), environment))
    except ValueError:
        return None
    if found["name"] != driver:  # torch computes on another GPU than the driver names first
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, to_json({**rates, driver: found["flops"]}, indent=1) + "\n")
    return float(found["flops"])


def rates_file(environment: Mapping[str, str]) -> Path:
    """Return the file of rates by the names of devices."""
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home(), ".cache")
    return Path(home, "escala", "matrix_rates.json")


def _said(command: tuple[str, ...], environment: Mapping[str, str]) -> str:
    """Return what a program prints; "" where it is missing or fails."""
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
