"""Generation with a cache against `transformers.generate`: the same weights, the same tokens, one process, interleaved.

    python -m benchmarks.generation [--sizes 1M 10M] [--tokens 192] [--rounds 5] [--threads 1]

The model is a GPT-2 of random weights, exported to `transformers` and loaded there. Both decode greedily from a prompt
of 32 tokens; the tokens are compared, then the time of `--tokens` of them. The figure is tokens/s of ours over theirs,
the median over the rounds, with one sequence and with eight side by side. The time is that of the processor, so that
other programs on the machine change the ratio little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import transformers

from trainer.config.decoding import parse_decoding
from trainer.config.load import run_from_values
from trainer.decoding.task import Task, decode
from trainer.models.build import build_model
from trainer.models.interface import LanguageModel
from trainer.models.transformer.config import TransformerConfig
from trainer.models.transformer.huggingface import to_huggingface

VOCAB, CONTEXT, PROMPT = 4096, 512, 32
SHAPES = {
    "gpt2": {"position": "learned", "norm": "layernorm", "mlp": "gelu_tanh", "bias": True},
    "llama": {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "tied_embeddings": False},
}


def both(size: str, layout: str) -> tuple[LanguageModel, transformers.PreTrainedModel]:
    """Return a model and the same one in `transformers`."""
    shape = {"size": size, "vocab_size": VOCAB, "context_length": CONTEXT, **SHAPES[layout]}
    values = {"model": shape, "data": {}, "batch": {"tokens_per_step": CONTEXT}, "steps": 1}
    config = run_from_values(values, "benchmark").model
    assert isinstance(config, TransformerConfig)
    ours = build_model(config, 0).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3.0)  # so that the best token is clearly the best
    tensors, description = to_huggingface({name: p.detach() for name, p in ours.named_parameters()}, config)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**description)).eval()
    absent, unknown = theirs.load_state_dict(tensors, strict=False)
    assert unknown == [] and absent in ([], ["lm_head.weight"]), (absent, unknown)
    theirs.tie_weights()
    return ours, theirs


def main() -> None:
    """Print a row for each layout, size and number of sequences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1M", "10M"])
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for layout in SHAPES:
        for size in options.sizes:
            ours, theirs = both(size, layout)
            for sequences in (1, 8):
                compare(f"{layout:5} {size:>4}", ours, theirs, sequences, options)


def compare(
    name: str, ours: LanguageModel, theirs: transformers.PreTrainedModel, sequences: int, options: argparse.Namespace
) -> None:
    """Print tokens/s of both, and their ratio."""
    prompts = torch.randint(0, VOCAB, (sequences, PROMPT), generator=torch.Generator().manual_seed(1))
    task = Task(ours, prompts.tolist(), parse_decoding({"decoder": "greedy", "tokens": options.tokens}), VOCAB)
    settings = {"max_new_tokens": options.tokens, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    attention = torch.ones_like(prompts)

    def run_ours() -> list[list[int]]:
        return [one.tokens for (one,) in decode(task)]

    def run_theirs() -> list[list[int]]:
        with torch.inference_mode():
            out: torch.Tensor = theirs.generate(prompts, attention_mask=attention, eos_token_id=None, **settings)
        return out[:, PROMPT:].tolist()

    same = run_ours() == run_theirs()
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(options.rounds):
        turns: list[tuple[str, Callable[[], list[list[int]]]]] = [("ours", run_ours), ("theirs", run_theirs)]
        for who, run in turns if number % 2 else reversed(turns):
            begin = time.process_time()
            run()
            rates[who].append(sequences * options.tokens / (time.process_time() - begin))
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True))
    shown = ", ".join(f"{who} {statistics.median(values):8.1f} tokens/s" for who, values in rates.items())
    print(f"{name}, {sequences} sequences: {shown}, ratio {ratio:.3f}{'' if same else ' (other tokens!)'}", flush=True)


if __name__ == "__main__":
    main()
