"""Score a trained run on a whole set, as `escala evaluate` does: `python -m trainer.evaluation.evaluate < request`.

The request is {"run", "settings" (of `ScoringConfig`), "out", "json"}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoint.whole_model import TrainedRun, open_run
from trainer.config.base import parse_section
from trainer.config.scoring import ScoringConfig
from trainer.contract.errors import UserError
from trainer.contract.requests import answer
from trainer.contract.run_dir import RunDir, write_atomically
from trainer.data.read.opening import masks_documents, open_split
from trainer.data.store.manifest import Manifest
from trainer.data.store.token_set import TokenSet
from trainer.data.tokenize.byte_lengths import byte_lengths
from trainer.data.tokenize.tokenizer import META
from trainer.evaluation.neural_cache import NeuralCache
from trainer.evaluation.scored import Scored, summarise
from trainer.evaluation.scoring import Block, score_carried, score_windows
from trainer.evaluation.stream import Stream, count_bytes, count_words, open_stream

EVERY = 2.0  # seconds between signs of life


def open_set(run: TrainedRun, config: ScoringConfig) -> TokenSet:
    """Return the split to score. Raises UserError where it is not there, or of another tokenizer."""
    if config.data is None:
        found = open_split(run.config.data, config.split)
    else:
        manifest = Manifest.open(config.data)
        if manifest.tokenizer_hash != run.tokenizer.hash:
            raise UserError(
                f"{config.data} was made with the tokenizer {manifest.tokenizer_hash}, the run with "
                f"{run.tokenizer.hash}: prepare the text with the run's (data.tokenizer.path)"
            )
        found = TokenSet.open(config.data, config.split)
    if not found.shards:
        raise UserError(f"{found.manifest.name} has no tokens in {config.split!r}: name another split")
    return found


def blocks_of(run: TrainedRun, stream: Stream, config: ScoringConfig) -> Iterator[Block]:
    """Return the losses of a stream as the settings say. Raises UserError for what the model cannot do."""
    model, limit = run.model.eval(), run.model.state_limit
    context = config.context or model.config.context_length
    if limit is not None and context > limit:
        raise UserError(f"windows of {context} are longer than the model's context of {limit}: use a smaller context")
    if config.carry_state:
        if limit is not None:
            raise UserError(
                f"the state of a {model.config.family} holds at most {limit} tokens, so it cannot be carried over: "
                "leave carry_state out, and choose a stride"
            )
        if stream.documents is not None:
            raise UserError("the model reads one document at a time, so there is nothing to carry over: use windows")
        return score_carried(model, stream, context)
    stride = config.stride or context
    if stride > context:
        raise UserError(f"a stride of {stride} leaves out tokens between windows of {context}: use a smaller one")
    return score_windows(model, stream, context, stride, config.batch)


def score_run(run: TrainedRun, run_dir: RunDir, config: ScoringConfig) -> Scored:
    """Return what the run reaches on the set that the settings name."""
    stream = open_stream(open_set(run, config), config.tokens, documents=masks_documents(run.config.data))
    has_table = (run_dir.tokenizer / META).exists()
    text_bytes = count_bytes(stream, byte_lengths(run_dir.tokenizer), run.tokenizer.eos_id) if has_table else None
    cache = NeuralCache(config.cache, config.cache_theta, config.cache_weight) if config.cache else None

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        for block in with_progress(blocks_of(run, stream, config), len(stream)):
            yield (cache(block) if cache else block.losses), block.before

    return summarise(parts(), count_words(stream, run.tokenizer), text_bytes)


def with_progress(blocks: Iterator[Block], total: int) -> Iterator[Block]:
    """Pass blocks on, and say on a terminal how far they are."""
    done, told = 0, time.monotonic()
    for block in blocks:
        yield block
        done += len(block.losses)
        if sys.stderr.isatty() and time.monotonic() - told > EVERY:
            told = time.monotonic()
            print(f"\r{done:,} of {total:,} tokens", end="" if done < total else "\n", file=sys.stderr, flush=True)


def protocol(config: ScoringConfig, context: int) -> str:
    """Say what each token reads before it."""
    if config.carry_state:
        return "one stream, the state carried over"
    stride = config.stride or context
    whole = f"windows of {context}, {stride} apart"
    if stride == context:
        return whole
    return f"{whole}: behind the first window each token has at least {context - stride} before it"


def table(scored: Scored, how: str) -> str:
    """Return a scored set for people."""
    bits = "" if scored.bits_per_byte is None else f", {scored.bits_per_byte:.4f} bits per byte"
    lines = [
        f"{scored.tokens:,} tokens, {scored.words:,} words and line ends; {how}",
        f"loss {scored.loss:.4f} nats a token{bits}",
        f"perplexity {scored.perplexity:.2f} a token, {scored.word_perplexity:.2f} a word",
        "",
        f"{'tokens before':>15}  {'scored':>9}  loss",
    ]
    for bucket in scored.by_position:
        span = f"{bucket.first}" if bucket.first == bucket.last else f"{bucket.first}-{bucket.last}"
        lines.append(f"{span:>15}  {bucket.tokens:>9,}  {bucket.loss:.4f}")
    return "\n".join(lines)


def run_request(request: dict[str, Any]) -> None:
    """Do what a request asks for. Raises UserError."""
    config = parse_section(ScoringConfig, request["settings"], "evaluation")
    run_dir = RunDir(Path(request["run"]))
    run = open_run(run_dir)
    scored = score_run(run, run_dir, config)
    context = config.context or run.model.config.context_length
    how = protocol(config, context) + (f", neural cache of {config.cache}" if config.cache else "")
    values = {
        "run": str(run_dir.root),
        "checkpoint": run.checkpoint.name,
        "family": run.model.config.family,
        "protocol": how,
        "settings": {**config.model_dump(mode="json"), "context": context},
        **scored.values(),
    }
    if request["out"]:
        write_atomically(Path(request["out"]), json.dumps(values, indent=1) + "\n")
    print(json.dumps(values) if request["json"] else table(scored, how))


if __name__ == "__main__":
    sys.exit(answer(run_request))
