"""Does the live law hold what it says? Trains a ladder and faulty runs, then judges each run against the others.

    python -m benchmarks.live_law train --corpus DIR --out DIR     # a quarter of an hour on two cores
    OMP_NUM_THREADS=1 python -m benchmarks.live_law judge --out DIR

`train` runs real sweeps, and runs only what is missing. The corpus is a directory with `eltec_eng.jsonl.gz` and
`eltec_fra_10mb.jsonl.gz` (COST-ELTeC), read as bytes. `judge` reads the sweeps' directories and trains nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

SIZES, LENGTHS, SEEDS, TOKENS_PER_STEP = ["25k", "50k", "100k"], [100, 200, 400], [0, 1], 2048
STEPS = LENGTHS[-1]
FAULTY = {"model.size": ["25k", "100k"], "steps": [STEPS]}
RATE = 0.5  # times the rule by size, which is high for runs as short as these
SCHEDULES: dict[str, dict[str, Any]] = {
    "cosine": {"kind": "cosine", "warmup": "5%"},
    "wsd": {"kind": "wsd", "warmup": "5%", "decay": "20%", "cooldown": "1-sqrt"},
}
SETTINGS: dict[str, dict[str, float]] = {
    "learning rate x3": {"optim.lr_factor": 3 * RATE},
    "weight decay x10": {"optim.weight_decay": 1.0},
    "weight decay 0": {"optim.weight_decay": 0.0},
}
USUAL = {"english": 0.8, "french": 0.2}
MIXTURES: dict[str, dict[str, float]] = {
    "shuffled": {"english": 0.76, "french": 0.19, "shuffled": 0.05},
    "mixture": {"english": 0.5, "french": 0.5},
}


def train(corpus: Path, out: Path, schedules: list[str]) -> None:
    """Train the ladders and the faulty runs."""
    out.mkdir(parents=True, exist_ok=True)
    shuffled = out / "shuffled.jsonl.gz"
    if not shuffled.exists():
        write_shuffled(corpus / "eltec_eng.jsonl.gz", shuffled, 3_000_000)
    paths = {
        "english": str(corpus / "eltec_eng.jsonl.gz"),
        "french": str(corpus / "eltec_fra_10mb.jsonl.gz"),
        "shuffled": str(shuffled),
    }
    for schedule in schedules:
        for name, sweep in sweeps(schedule, paths, out).items():
            path = out / f"{name}.yaml"  # YAML reads JSON
            path.write_text(json.dumps({"name": name, **sweep}, indent=1))
            command = ["launch", "sweep", "run", str(path), "--runs", str(out / "runs")]
            subprocess.run([sys.executable, "-m", *command], check=True)


def write_shuffled(source: Path, target: Path, most: int) -> None:
    """Write the source's text with the characters of each document in random order, so much of it."""
    dice, written = random.Random(0), 0
    with gzip.open(source, "rt", encoding="utf-8") as lines, gzip.open(target, "wt", encoding="utf-8") as out:
        for line in lines:
            characters = list(json.loads(line)["text"])
            dice.shuffle(characters)
            out.write(json.dumps({"text": "".join(characters)}) + "\n")
            if (written := written + len(characters)) > most:
                return


def sweeps(schedule: str, paths: dict[str, str], out: Path) -> dict[str, dict[str, Any]]:
    """Return the sweeps of one schedule: the ladder, and the kinds of faults."""

    def run(weights: dict[str, float], stages: list[dict[str, Any]]) -> dict[str, Any]:
        sources = [
            {"name": name, "path": paths[name], "weight": weights.get(name, 0.01), "max_bytes": "12M"}
            for name in (paths if "shuffled" in {*weights, *(w for s in stages for w in s["weights"])} else USUAL)
        ]
        name = "with-shuffled" if len(sources) == 3 else "usual"
        data = {
            "name": name, "root": str(out / "data"), "sources": sources, "tokenizer": {"kind": "bytes"},
            "held_out_fraction": 0.05, "stages": stages,
        }  # fmt: skip
        return {
            "data": data, "model": {"size": "12k", "context_length": 64},
            "batch": {"tokens_per_step": TOKENS_PER_STEP}, "schedule": SCHEDULES[schedule], "steps": STEPS,
            "optim": {"lr_factor": RATE}, "evaluation": {"tokens": "65k"},
            "checkpoint": {"every": "100%", "keep_last": 1}, "tracking": {"log_every": "1 steps"},
        }  # fmt: skip

    vary = {"model.size": SIZES, "steps": LENGTHS, "seed": SEEDS}
    found: dict[str, dict[str, Any]] = {f"{schedule}-ladder": {"run": run(USUAL, []), "vary": vary}}
    found[f"{schedule}-settings"] = {"run": run(USUAL, []), "vary": FAULTY, "changes": list(SETTINGS.values())}
    for kind, weights in MIXTURES.items():
        for onset in (0, STEPS // 2) if kind == "shuffled" else (0,):
            stages = [{"from_tokens": max(1, onset * TOKENS_PER_STEP), "weights": weights}]
            first = weights if onset == 0 else USUAL
            if onset and kind == "shuffled":  # a source needs some weight before its stage
                stages.insert(0, {"from_tokens": 1, "weights": USUAL})
            found[f"{schedule}-{kind}-{onset}"] = {"run": run(first, stages), "vary": FAULTY}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["train", "judge"])
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=list(SCHEDULES))
    arguments = parser.parse_args()
    if arguments.action == "train":
        train(arguments.corpus, arguments.out, arguments.schedules)


if __name__ == "__main__":
    main()
