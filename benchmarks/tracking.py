"""What tracking costs a step: every step recorded and judged, with W&B online, offline, unreachable and slow.

    python -m benchmarks.tracking                    1M and 10M parameters
    python -m benchmarks.tracking --sizes 1M --modes online slow

One process trains. Blocks of tracked and untracked steps take turns, so that a change of the machine's load meets
both. A tracked step adds a row of all metrics to the record (the default is every tenth step) and the health rules. The
sender to W&B is another process, beside both kinds of blocks. Printed are the cost of a step over an untracked one, by
the wall clock (median over pairs of blocks) and by the processor time of the training process, and what tracking takes
alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.overhead import VOCAB, random_batch, run_config
from trainer.contract.run_dir import RunDir, Status
from trainer.engine.build import build_engine
from trainer.engine.cost import open_costs
from trainer.guard.health import Health
from trainer.models.build import build_model
from trainer.observe.observers import Observers
from trainer.observe.record import Record
from trainer.observe.throughput import Throughput
from trainer.observe.wall_time import WallTime
from trainer.observe.wandb_mirror import WandbMirror
from trainer.parallel.start import start

MODES = ("offline", "online", "unreachable", "slow")
SLOW = 2.0  # seconds that the slow server takes for each answer
BLOCKS = {"1M": (12, 5), "10M": (4, 2)}  # pairs of blocks, steps in a block
SETTLE = 20.0  # seconds for the sender to start: a run has it once


def serve(delay: float, told: Any) -> None:
    """Be a W&B server in a process of its own."""
    from tests.wandb_server import WandbServer

    server = WandbServer()
    server.start()
    server.fault(delay=delay)
    told.send(server.url)
    while True:
        time.sleep(60)


@contextlib.contextmanager
def wandb_at(mode: str) -> Iterator[None]:
    """Set the environment for a mode, with a server where it needs one."""
    os.environ.update(WANDB_API_KEY="0" * 40, WANDB_ERROR_REPORTING="false", WANDB_BASE_URL="http://127.0.0.1:9")
    server = None
    if mode in ("online", "slow"):
        mine, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(
            target=serve, args=(SLOW if mode == "slow" else 0.0, theirs), daemon=True
        )
        server.start()
        os.environ["WANDB_BASE_URL"] = mine.recv()
    try:
        yield
    finally:
        if server is not None:
            server.kill()
            server.join()


def run_dir_at(place: Path) -> RunDir:
    """Return a run directory as a run has when its ranks begin."""
    found = RunDir(place)
    found.root.mkdir(parents=True)
    found.config.write_text(yaml.safe_dump({"name": "tracked", "tracking": {"project": "benchmark"}}))
    found.plan.write_text(json.dumps({"flops_per_token": {"total": 6e6}, "flops": 6e9, "world": 1}))
    found.run.write_text(json.dumps({"wandb_id": "tracked"}))
    found.write_status(Status.RUNNING)
    return found


class Tracked:
    """What a run does after a step, every step."""

    def __init__(self, run_dir: RunDir, mode: str, guard: Any, tokens: int) -> None:
        mirrors = [] if mode == "offline" else [WandbMirror(run_dir)]
        self.observers = Observers([Record(run_dir), *mirrors], first=True)
        self.health = Health(guard, ask=lambda what: None, event=self.observers.event)
        self.throughput, self.wall_time = (
            Throughput(tokens),
            WallTime(open_costs(torch.device("cpu"), 1), [], 0, started=time.time()),
        )
        self.tokens, self.step = tokens, 0

    def after(self, outcome: Any) -> None:
        """Judge and record a step."""
        self.step += 1
        self.health.after(self.step, outcome.loss, outcome.grad_norm)
        self.observers.row(
            "train", self.step, tokens=self.step * self.tokens, loss=outcome.loss, grad_norm=outcome.grad_norm, lr=1e-3,
            epoch=0.1, **self.throughput.report(), mfu=0.3, memory_peak=10**9, skipped=0, seconds_left=1.0,
            **self.wall_time.row(0.0),
        )  # fmt: skip


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Return seconds by the wall clock and of this process."""
    began = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began[0], time.process_time() - began[1]


def measure(engine: Any, config: Any, mode: str, size: str) -> dict[str, float]:
    """Return the costs of one mode in percent of a step, and milliseconds."""
    batch, pairs = random_batch(0, 4), BLOCKS[size]
    ratios: list[float] = []
    spent = {"plain": [0.0, 0.0], "tracked": [0.0, 0.0], "alone": [0.0, 0.0]}
    with tempfile.TemporaryDirectory() as place, wandb_at(mode):
        run = Tracked(run_dir_at(Path(place) / "run"), mode, config.guard, 4 * 128)
        time.sleep(0 if mode == "offline" else SETTLE)

        def steps(tracked: bool) -> None:
            for _ in range(pairs[1]):
                outcome = engine.train_step([batch], 1e-3)
                if tracked:
                    wall, own = timed(lambda: run.after(outcome))  # noqa: B023 - called at once
                    spent["alone"][0] += wall
                    spent["alone"][1] += own

        for _ in range(pairs[0]):
            found = {kind: timed(lambda: steps(kind == "tracked")) for kind in ("plain", "tracked")}  # noqa: B023
            ratios.append(found["tracked"][0] / found["plain"][0])
            for kind, (wall, own) in found.items():
                spent[kind][0] += wall
                spent[kind][1] += own
        run.observers.finish(0)
    count = pairs[0] * pairs[1]
    plain, tracked, alone = spent["plain"], spent["tracked"], spent["alone"]
    return {
        "step_ms": 1e3 * plain[0] / count,
        "wall_percent": 100 * (statistics.median(ratios) - 1),
        "cpu_percent": 100 * (tracked[1] / plain[1] - 1),
        "alone_cpu_ms": 1e3 * alone[1] / count,
        "alone_percent": 100 * alone[1] / plain[1],
    }


def main() -> None:
    """Print a row for each size and mode."""
    parser = argparse.ArgumentParser(description="What tracking costs a step.")
    parser.add_argument("--sizes", nargs="+", default=list(BLOCKS), choices=list(BLOCKS))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| size | W&B | step | tracked over untracked, wall | processor time | tracking alone | of a step |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for size in given.sizes:
        config = run_config(size, 1, 0, 4)
        device = torch.device("cpu")
        with contextlib.redirect_stderr(io.StringIO()):
            model = build_model(config.model, 0)
            engine = build_engine(config, model, start(config.parallel, device), lr=1e-3, accumulation=1, device=device)
        assert config.model.vocab_size == VOCAB
        engine.train_step([random_batch(0, 4)], 1e-3)
        for mode in given.modes:
            found = measure(engine, config, mode, size)
            print(
                f"| {size} | {mode} | {found['step_ms']:.0f} ms | {found['wall_percent']:+.2f} % | "
                f"{found['cpu_percent']:+.2f} % | {found['alone_cpu_ms']:.3f} ms | {found['alone_percent']:.2f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
