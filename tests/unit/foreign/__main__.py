"""Mutate models and tokenizers of Hugging Face, and say what went wrong: `python -m tests.unit.foreign --count 500`."""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import transformers

from tests.unit.foreign import models, tokenizers
from tests.unit.foreign.models import Outcome


def outcomes(kind: str, seed: int, count: int) -> Iterator[tuple[int, Outcome]]:
    """Yield what became of each mutation, with its seed."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(seed, seed + count):
            one = models.try_one(number, Path(folder) / "model") if kind == "models" else tokenizers.try_one(number)
            yield number, one


def main() -> int:
    """Run the mutations, and print those that went against the promise. Returns 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="of models, and of tokenizers")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    quiet()
    failed = 0
    for kind in ("models", "tokenizers"):
        found = list(outcomes(kind, options.seed, options.count))
        wrong = [(seed, one) for seed, one in found if one.wrong]
        failed += len(wrong)
        imported = [one for _, one in found if one.imported]
        largest = max((one.largest_difference for one in imported if not one.wrong), default=0.0)
        print(
            f"{kind}: {len(imported)} imported (logits within {largest:.1e}), {len(found) - len(imported)} refused, "
            f"{len(wrong)} wrong"
        )
        for seed, one in wrong:
            print(f"  seed {seed}: {one.mutation}: {one.wrong}")
    return int(failed > 0)


def quiet() -> None:
    """Keep `transformers` from commenting on what it loads."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    raise SystemExit(main())
