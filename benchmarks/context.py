"""Tokens per second and memory of every mixer against the length of the context, and where each overtakes attention.

    python -m benchmarks.context [--size 300k] [--tokens 8192] [--mixers attention lstm mamba2] [--out context.json]

A point is a training step (forward, backward, no optimizer) of so many tokens, cut into sequences of the length, in a
child process of its own: its memory is how far the resident set grows. Seconds are CPU seconds on one thread, which a
busy machine moves less than the clock. All mixers are measured at one size of the body, a length after the other.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch

from trainer.config.load import run_from_values
from trainer.models.build import build_model

LENGTHS = tuple(2**power for power in range(6, 14))  # 64 to 8192
MIXERS = ("attention", "gated_conv", "lstm", "qrnn", "min_gru", "mamba2", "gated_delta", "mlstm")
VOCAB, REFERENCE = 1024, "attention"
Point = dict[str, float]


def measure(mixer: str, size: str, length: int, tokens: int, rounds: int) -> Point:
    """Return tokens per CPU second of the fastest of the rounds, and the growth of the resident set in bytes."""
    model = {"size": size, "vocab_size": VOCAB, "context_length": length, "mixer": mixer}
    values = {"model": model, "data": {}, "batch": {"tokens_per_step": tokens}, "steps": 10}
    built = build_model(run_from_values(values, "benchmark").model, 0)
    text = torch.randint(0, VOCAB, (tokens // length, length + 1), generator=torch.Generator().manual_seed(0))
    inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    before, best = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, math.inf
    for _ in range(rounds):
        began = time.process_time()
        built(inputs, targets).mean().backward()
        best = min(best, time.process_time() - began)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"context": length, "tokens_per_second": tokens / best, "bytes": 1024.0 * grown}


def in_child(mixer: str, size: str, length: int, tokens: int, rounds: int) -> Point:
    """Measure a point in a child process, whose memory is its own."""
    context = multiprocessing.get_context("fork")  # torch is imported; no thread has been started yet
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(there, mixer, size, length, tokens, rounds))
    child.start()
    there.close()
    try:
        point: Point = here.recv()
    except EOFError:
        raise SystemExit(f"{mixer} at a context of {length}: the measuring process ended without a result") from None
    finally:
        child.join()
    return point


def _send(there: Connection, mixer: str, size: str, length: int, tokens: int, rounds: int) -> None:
    torch.set_num_threads(1)
    there.send(measure(mixer, size, length, tokens, rounds))


def crossing(reference: Sequence[Point], other: Sequence[Point], key: str = "tokens_per_second") -> float | None:
    """Return the context length from which on the other is better than the reference, up to the longest measured.

    Between two lengths the logarithms are interpolated. The shortest length where it is better throughout; None where
    it is not better at the longest one. `bytes` are better where they are fewer.
    """
    sign = -1.0 if key == "bytes" else 1.0
    ahead = [sign * math.log(b[key] / a[key]) for a, b in zip(reference, other, strict=True)]
    if ahead[-1] <= 0:
        return None
    last = max((i for i, value in enumerate(ahead) if value <= 0), default=None)
    if last is None:
        return float(reference[0]["context"])
    low, high = (math.log2(reference[i]["context"]) for i in (last, last + 1))
    return float(2 ** (low + (high - low) * -ahead[last] / (ahead[last + 1] - ahead[last])))


def crossings(found: Mapping[str, Sequence[Point]]) -> dict[str, dict[str, float | None]]:
    """Return for speed and memory the `crossing` of each mixer with attention."""
    return {
        key: {mixer: crossing(found[REFERENCE], points, key) for mixer, points in found.items() if mixer != REFERENCE}
        for key in ("tokens_per_second", "bytes")
    }


def table(found: Mapping[str, Sequence[Point]], key: str, scale: float) -> str:
    """Return a table in Markdown: a row a mixer, a column a length, and where it overtakes attention."""
    lengths = [int(point["context"]) for point in found[REFERENCE]]
    header = ["mixer", *map(str, lengths), "better than attention from"]
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    for mixer, points in found.items():
        at = None if mixer == REFERENCE else crossing(found[REFERENCE], points, key)
        told = "" if mixer == REFERENCE else "not up to here" if at is None else f"{at:.0f}"
        lines.append("| " + " | ".join([mixer, *(f"{point[key] / scale:.1f}" for point in points), told]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="300k", help="body parameters of every model")
    parser.add_argument("--tokens", type=int, default=LENGTHS[-1], help="of one step, at every length")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--mixers", nargs="+", default=MIXERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON of every point and crossing")
    options = parser.parse_args()
    found: dict[str, list[Point]] = {mixer: [] for mixer in dict.fromkeys((REFERENCE, *options.mixers))}
    for length in options.lengths:
        for mixer, points in found.items():
            points.append(in_child(mixer, options.size, length, options.tokens, options.rounds))
            print(f"{mixer} at {length}: {points[-1]['tokens_per_second']:.0f} tokens/s", file=sys.stderr)
    print(f"{options.size} body parameters, {options.tokens} tokens a step, vocabulary {VOCAB}, float32, one thread")
    print("\nThousand tokens per CPU second:\n\n" + table(found, "tokens_per_second", 1e3))
    print("\nMiB that a step adds:\n\n" + table(found, "bytes", 2**20))
    if options.out is not None:
        about = {"size": options.size, "tokens_per_step": options.tokens, "vocabulary": VOCAB}
        options.out.write_text(json.dumps({**about, "mixers": found, "better_from": crossings(found)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
