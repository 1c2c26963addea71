"""The runs that `live_law.py` judges: ladders of tiny transformers, and runs with a planted fault."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTHS, STEPS, TOKENS_PER_STEP = (32, 40, 48, 56, 64), 300, 1024  # 25k to 100k parameters of the body
FAULTY = {"model.d_model": [40, 56]}
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


@dataclass(frozen=True)
class Ladder:
    """All widths with two seeds. `evaluate`: how often the held-out set is, beside the end."""

    seeds: list[int]
    schedules: tuple[str, ...] = ("cosine", "wsd")
    tokens_per_step: int = TOKENS_PER_STEP
    evaluate: str | None = None
    widths: tuple[int, ...] = WIDTHS


WIDE = "wide-ladder"
LADDERS = {
    "ladder": Ladder([0, 1]),
    "test-ladder": Ladder([2, 3]),
    "third-ladder": Ladder([4, 5], schedules=("cosine",)),
    "fourth-ladder": Ladder([6, 7], tokens_per_step=4 * TOKENS_PER_STEP, evaluate="25 steps"),
    WIDE: Ladder([8, 9], tokens_per_step=2 * TOKENS_PER_STEP, widths=(64, 80, 96, 112, 128)),
}
TESTED_ON = "test-ladder"  # the faults are


def train(corpus: Path, out: Path, schedules: list[str], ladders: list[str]) -> None:
    """Train the ladders, and with the one that faults are tested on the faulty runs; only what is missing."""
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
        found = {name: sweep for ladder in ladders for name, sweep in sweeps(schedule, ladder, paths, out).items()}
        for name, sweep in found.items():
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


def sweeps(schedule: str, ladder: str, paths: dict[str, str], out: Path) -> dict[str, dict[str, Any]]:
    """Return the sweeps of one schedule: a ladder, and the kinds of faults where they are tested on it."""
    one = LADDERS[ladder]
    if schedule not in one.schedules:
        return {}
    vary = {"seed": one.seeds, "model.d_model": one.widths}
    found: dict[str, dict[str, Any]] = {
        f"{schedule}-{ladder}": {"run": _run(schedule, one, paths, out, USUAL, []), "vary": vary}
    }
    if ladder != TESTED_ON:
        return found
    usual = _run(schedule, one, paths, out, USUAL, [])
    found[f"{schedule}-settings"] = {"run": usual, "vary": FAULTY, "changes": list(SETTINGS.values())}
    for kind, weights in MIXTURES.items():
        for onset in (0, STEPS // 2) if kind == "shuffled" else (0,):
            stages = [{"from_tokens": max(1, onset * TOKENS_PER_STEP), "weights": weights}]
            first = weights if onset == 0 else USUAL
            if onset and kind == "shuffled":  # a source needs some weight before its stage
                stages.insert(0, {"from_tokens": 1, "weights": USUAL})
            run = _run(schedule, one, paths, out, first, stages)
            found[f"{schedule}-{kind}-{onset}"] = {"run": run, "vary": FAULTY}
    return found


def _run(
    schedule: str, ladder: Ladder, paths: dict[str, str], out: Path, weights: dict[str, float],
    stages: list[dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Return the configuration of a run, less what its sweep varies."""
    mixed = {*weights, *(name for stage in stages for name in stage["weights"])}
    sources = [
        {"name": name, "path": paths[name], "weight": weights.get(name, 0.01), "max_bytes": "12M"}
        for name in (paths if "shuffled" in mixed else USUAL)
    ]
    data = {
        "name": "with-shuffled" if len(sources) == 3 else "usual", "root": str(out / "data"), "sources": sources,
        "tokenizer": {"kind": "bytes"}, "held_out_fraction": 0.05, "stages": stages,
    }  # fmt: skip
    return {
        "data": data, "model": {"d_model": min(ladder.widths), "n_layers": 2, "n_heads": 2, "context_length": 64},
        "batch": {"tokens_per_step": ladder.tokens_per_step}, "schedule": SCHEDULES[schedule], "steps": STEPS,
        "optim": {"lr_factor": RATE},
        "evaluation": {"tokens": "33k", **({"every": ladder.evaluate} if ladder.evaluate else {})},
        "checkpoint": {"every": "100%", "keep_last": 1},
        "tracking": {"log_every": "1 steps", "norms_every": "1 steps"}, "seed": min(ladder.seeds),
    }  # fmt: skip
