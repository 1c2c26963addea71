"""Continue prompts with a trained model: `python -m trainer.decoding.sample < request.json`, as `escala sample` does.

The request is {"run", "prompts", "settings" (of `DecodingConfig`, those that were given), "compare", "json"}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from trainer.checkpoint.whole_model import TrainedRun, open_run
from trainer.config.decoding import DecodingConfig, parse_decoding
from trainer.contract.errors import UserError
from trainer.contract.plain_text import plain
from trainer.contract.requests import answer
from trainer.contract.run_dir import RunDir
from trainer.data.read.opening import masks_documents
from trainer.data.tokenize.tokenizer import Tokenizer
from trainer.decoding.compare import compare, table
from trainer.decoding.task import Produced, Task, decode
from trainer.decoding.text import Continuation, TextStream, cut

RULE = "-" * 40


def first_tokens(tokenizer: Tokenizer, prompt: str, *, confined: bool) -> list[int]:
    """Return the tokens to continue. A model whose attention was `confined` to documents saw an end token before each.

    Without a prompt that is the end token alone, for every model: what follows it begins a document. Where end tokens
    end lines, one comes before the first line, too. Raises UserError for a prompt that is not text.
    """
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the prompt is not UTF-8 at character {error.start + 1}: convert it") from None
    ids = tokenizer.encode(prompt) if prompt else []
    if not tokenizer.eos_ends_documents:
        ends = [tokenizer.eos_id] if prompt.endswith("\n") else []  # `encode` leaves the last line open
        return [tokenizer.eos_id, *ids, *ends]
    return [tokenizer.eos_id, *ids] if confined or not ids else ids


def make_task(run: TrainedRun, prompts: list[str], config: DecodingConfig) -> Task:
    """Return the prompts as a task. Warns of one that is longer than what the model can read."""
    confined, limit = masks_documents(run.config.data), run.model.state_limit
    ids = [first_tokens(run.tokenizer, prompt, confined=confined) for prompt in prompts]
    for number, one in enumerate(ids, 1):
        if limit is not None and len(one) > limit:
            print(
                f"warning: prompt {number} has {len(one)} tokens and the model's context {limit}: its first "
                f"{len(one) - limit} are not read",
                file=sys.stderr,
            )
    text = Continuation(run.tokenizer)
    end = run.tokenizer.eos_id if run.tokenizer.eos_ends_documents else None
    return Task(run.model, ids, config, run.tokenizer.vocab_size, end, text)


def texts(task: Task, prompt: list[int], produced: list[Produced]) -> list[str]:
    """Return the texts of the continuations of a prompt, up to a stop string."""
    assert task.continued is not None
    return [cut(task.continued(prompt, one.tokens), task.config.stop) for one in produced]


def as_json(prompt: str, task: Task, ids: list[int], produced: list[Produced]) -> str:
    """Return the continuations of a prompt as one line of JSON."""
    found = texts(task, ids, produced)
    rows = [
        {"text": text, "tokens": len(one.tokens), "logprob": one.logprob, "end": one.end, "ids": one.tokens}
        for text, one in zip(found, produced, strict=True)
    ]
    whole = [prompt + text for text in found]
    return json.dumps({"prompt": prompt, "texts": whole, "decoder": task.config.decoder, "continuations": rows})


def told(produced: Produced) -> str:
    """Return what is known of a continuation beside its text."""
    why = {"end": "it ended", "stop": "a stop string came", "length": "no more were asked for"}[produced.end]
    return f"[{len(produced.tokens)} tokens, log-probability {produced.logprob:.3f} nats; {why}]"


def show(prompts: list[str], task: Task) -> None:
    """Print continuations: a single one while it comes, several when they are there."""
    single = len(prompts) == 1 and task.config.count == 1
    stream = TextStream(task.continued, task.prompts[0], task.config.stop) if single and task.continued else None
    if stream is not None:
        say(prompts[0])
        task = task.emitting(lambda row, token: say(stream.push(token)))
    results = decode(task)
    if stream is not None:
        ((produced,),) = results
        if not stream.pushed:  # a decoder that knows the sequence only at its end
            for token in produced.tokens:
                say(stream.push(token))
        say(stream.close() + "\n")
        print(told(produced), file=sys.stderr)
        return
    parts = [
        f"{prompt}{text}\n{told(one)}"
        for prompt, ids, many in zip(prompts, task.prompts, results, strict=True)
        for text, one in zip(texts(task, ids, many), many, strict=True)
    ]
    say(f"\n{RULE}\n".join(parts) + "\n")


def say(text: str) -> None:
    """Show text at once. What a model makes up must not steer a terminal; a file gets it as it is."""
    sys.stdout.write(plain(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def run_request(request: dict[str, Any]) -> None:
    """Do what a request asks for. Raises UserError."""
    config, prompts = parse_decoding(request["settings"]), request["prompts"]
    run = open_run(RunDir(Path(request["run"])))
    task = make_task(run, prompts, config)
    if request["compare"]:
        rows = compare(task)
        print(json.dumps({"prompt": prompts[0], **rows.as_json()}) if request["json"] else table(prompts[0], rows))
    elif request["json"]:
        for prompt, ids, produced in zip(prompts, task.prompts, decode(task), strict=True):
            print(as_json(prompt, task, ids, produced))
    else:
        show(prompts, task)


if __name__ == "__main__":
    sys.exit(answer(run_request))
