"""Continue a prompt with a trained model: `python -m trainer.decoding.sample RUN --prompt TEXT`. One process."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from trainer.checkpoint.load import Source
from trainer.checkpoint.manifest import Manifest
from trainer.checkpoint.search import sound_checkpoint
from trainer.config.load import load_written
from trainer.config.run import RunConfig
from trainer.contract.errors import UserError
from trainer.contract.exit_codes import EXIT_USER_ERROR
from trainer.contract.run_dir import RunDir
from trainer.data.read.opening import masks_documents
from trainer.data.tokenize.run_tokenizer import tokenizer_of_run
from trainer.data.tokenize.tokenizer import Tokenizer
from trainer.decoding.decode import Decoding, generate
from trainer.engine.protocol import WEIGHT
from trainer.models.build import make_model
from trainer.models.interface import LanguageModel, tie_head
from trainer.parallel.tensor.split import Split


def load_model(checkpoint: Path, manifest: Manifest, config: RunConfig) -> LanguageModel:
    """Return the model of a checkpoint, whole, in one process. Raises UserError where it is another model."""
    source = Source(checkpoint, manifest)
    model_config = config.model
    if model_config.vocab_size is None:
        model_config = model_config.model_copy(update={"vocab_size": manifest.architecture["vocab_size"]})
    with torch.device("meta"):
        model = make_model(model_config)
    weights = {name: source.read_share(name, WEIGHT, Split(shape)) for name, shape in manifest.parameters.items()}
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if expected != {name: tuple(weight.shape) for name, weight in weights.items()}:
        raise UserError(f"{checkpoint} holds another model than the run's configuration describes")
    missing, _ = model.load_state_dict(weights, strict=False, assign=True)
    assert missing in ([], ["head.weight"]), missing
    tie_head(model)
    return model


def first_tokens(tokenizer: Tokenizer, prompt: str, *, confined: bool) -> list[int]:
    """Return the tokens to continue. A model whose attention was `confined` to documents saw an end token before each.

    Without a prompt that is the end token alone, for every model: what follows it begins a document. Raises UserError
    for a prompt that is not text.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the prompt is not UTF-8 at character {error.start + 1}: convert it") from None
    ids = tokenizer.encode(prompt) if prompt else []
    return [tokenizer.eos_id, *ids] if confined or not ids else ids


def continuations(
    model: LanguageModel,
    tokenizer: Tokenizer,
    start: list[int],
    *,
    count: int,
    tokens: int,
    decoding: Decoding,
    seed: int,
) -> list[str]:
    """Return `count` texts that begin with `start` and go on for at most `tokens` tokens; they end with the document.

    Raises UserError for numbers with which nothing can be sampled.
    """
    if count < 1 or tokens < 1:
        raise UserError(f"{count} continuations of {tokens} tokens are none: both must be 1 or more")
    if not -(2**63) <= seed < 2**64:
        raise UserError(f"seed {seed} has more than 64 bits: use a smaller one")
    steps = generate(
        model,
        torch.tensor([start] * count),
        tokens=tokens,
        decoding=decoding,
        generator=torch.Generator().manual_seed(seed),
        vocab_size=tokenizer.vocab_size,
    )
    rows = torch.stack(list(steps), dim=1).tolist()
    begun = start[1:] if start[0] == tokenizer.eos_id else start
    return [tokenizer.decode([*begun, *until(row, tokenizer.eos_id)]) for row in rows]


def until(tokens: list[int], end: int) -> list[int]:
    """Return what stands before the first `end`."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def sampled(run_dir: RunDir, options: argparse.Namespace, decoding: Decoding) -> list[str]:
    """Return the continuations that the command line asks for. Needs the run directory alone, not its data."""
    config = load_written(run_dir.config)
    checkpoint, manifest = sound_checkpoint(run_dir.root)
    expected = manifest.state.get("identity", {}).get("tokenizer")
    tokenizer = tokenizer_of_run(run_dir.tokenizer, config.data, expected)
    return continuations(
        load_model(checkpoint, manifest, config),
        tokenizer,
        first_tokens(tokenizer, options.prompt, confined=masks_documents(config.data)),
        count=options.count,
        tokens=options.tokens,
        decoding=decoding,
        seed=options.seed,
    )


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
        texts = sampled(run_dir, options, decoding)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    if options.as_json:
        print(json.dumps({"prompt": options.prompt, "texts": texts}))
    else:
        print(("\n" + "-" * 40 + "\n").join(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
