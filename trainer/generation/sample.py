"""Continue a prompt with a trained model: `python -m trainer.generation.sample RUN --prompt TEXT`. One process."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from trainer.checkpoint.fragments import WEIGHT
from trainer.checkpoint.load import Source
from trainer.checkpoint.search import newest_sound
from trainer.config.load import load_written
from trainer.config.resolve import with_data
from trainer.config.run import RunConfig
from trainer.data.opening import open_manifest
from trainer.data.tokenizer import Tokenizer, load_tokenizer
from trainer.errors import USER_ERROR_EXIT_CODE, UserError
from trainer.generation.decode import Decoding, generate
from trainer.models.transformer import Transformer
from trainer.parallel.plan import Split
from trainer.run_dir import RunDir


def load_model(run_dir: RunDir, config: RunConfig) -> Transformer:
    """Return the model of a run's newest checkpoint, whole, in one process. Raises UserError where there is none."""
    found = newest_sound(run_dir.checkpoints)
    for row in found.passed:
        print(f"warning: {row.checkpoint} was passed over: {row.problem}", file=sys.stderr)
    checkpoint, manifest = found.checkpoint, found.manifest
    if checkpoint is None or manifest is None:
        raise UserError(f"{run_dir.root} has no {'sound ' if found.passed else ''}checkpoint to sample from: train it")
    source = Source(checkpoint, manifest)
    with torch.device("meta"):
        model = Transformer(config.model)
    weights = {name: source.read_share(name, WEIGHT, Split(shape)) for name, shape in manifest.parameters.items()}
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if expected != {name: tuple(weight.shape) for name, weight in weights.items()}:
        raise UserError(f"{checkpoint} holds another model than {run_dir.config} describes")
    missing, _ = model.load_state_dict(weights, strict=False, assign=True)
    assert missing in ([], ["head.weight"]), missing
    if config.model.tied_embeddings:
        model.head.weight = model.embed.weight
    return model


def continuations(
    model: Transformer, tokenizer: Tokenizer, prompt: str, *, count: int, tokens: int, decoding: Decoding, seed: int
) -> list[str]:
    """Return `count` continuations of a prompt, each at most `tokens` tokens long; they end with the document."""
    start = tokenizer.encode(prompt) if prompt else [tokenizer.eos_id]
    ids = torch.tensor([start] * count)
    steps = generate(
        model,
        ids,
        tokens=tokens,
        decoding=decoding,
        generator=torch.Generator().manual_seed(seed),
        vocab_size=tokenizer.vocab_size,
    )
    rows = torch.stack(list(steps), dim=1).tolist()
    return [tokenizer.decode([*start, *until(row, tokenizer.eos_id)]) for row in rows]


def until(tokens: list[int], end: int) -> list[int]:
    """Return what stands before the first `end`."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def main() -> int:
    """Print continuations, one after the other or as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--prompt", default="")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args()
    try:
        decoding = Decoding(options.temperature, options.top_k, options.top_p)
        run_dir = RunDir(options.run)
        if not run_dir.config.exists():
            raise UserError(f"{run_dir.root} is not a run directory: it has no config.yaml")
        config = load_written(run_dir.config)
        config = with_data(config, open_manifest(config.data))
        model = load_model(run_dir, config)
        tokenizer = load_tokenizer(Path(config.data.directory) / "tokenizer")
        texts = continuations(
            model, tokenizer, options.prompt,
            count=options.count, tokens=options.tokens, decoding=decoding, seed=options.seed,
        )  # fmt: skip
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    if options.as_json:
        print(json.dumps({"prompt": options.prompt, "texts": texts}))
    else:
        print(("\n" + "-" * 40 + "\n").join(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
