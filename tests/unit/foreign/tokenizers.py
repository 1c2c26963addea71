"""Mutated tokenizer.json files: each gives the ids that its library gives, all inside the vocabulary, or is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import tokenizers

from tests.unit.data import tokenizer_files as files
from tests.unit.foreign.models import ODD, Outcome
from trainer.contract.errors import UserError
from trainer.data.tokenize.huggingface_tokenizer import USUAL_ENDS, HuggingFace

PLAIN = ["the model returns", "def x1: self.value = 0.5\n", "naïve Größe 数据\t12345", "", "  ", "unseen ẞ 😀"]
NORMALIZERS: list[Any] = [
    {"type": "Lowercase"},
    {"type": "NFKC"},
    {"type": "StripAccents"},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    {"type": "Nothing"},
]
PRE_TOKENIZERS: list[Any] = [
    None,
    {"type": "Whitespace"},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "Digits", "individual_digits": True},
    {"type": "Split", "pattern": {"Regex": "["}, "behavior": "Isolated", "invert": False},
]
PADDING = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 5000, "pad_type_id": 0}
TRUNCATION = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
HOW = "spread far added special normalizer pre limits path path text unknown dropout".split()  # noqa: SIM905


def mutate(rng: random.Random) -> tuple[str, bytes]:
    """Return what was changed and the file's content."""
    kind = rng.choice(sorted(files.ALL))
    values: Any = files.ALL[kind]()
    how = rng.choice(HOW)
    if how in ("spread", "far") and isinstance(values["model"]["vocab"], dict):
        values = files.spread(values, rng.choice([2, 3, 1000] if how == "spread" else [2**20, 2**32]))
    elif how == "added":
        for number in rng.sample(range(1000), 3):
            values["added_tokens"].append({**values["added_tokens"][0], "id": number, "content": f"<|{number}|>"})
    elif how == "special":
        for token in values["added_tokens"]:
            token["special"], token["normalized"] = rng.random() < 0.5, rng.random() < 0.5
    elif how == "normalizer":
        values["normalizer"] = rng.choice(NORMALIZERS)
    elif how == "pre":
        values["pre_tokenizer"] = rng.choice(PRE_TOKENIZERS)
    elif how == "limits":
        values["truncation"], values["padding"] = TRUNCATION, {**PADDING, "pad_token": "<pad>"}
    elif how == "unknown":
        values["model"]["unk_token"] = rng.choice([None, "<none>", *USUAL_ENDS])
        values["model"]["unk_id"] = rng.choice([0, 1, None])
    elif how == "dropout":
        values["model"]["dropout"] = rng.choice([0.5, 0.0, None])
    elif how == "path":
        how = _change_somewhere(rng, values)
    content = files.content(values)
    if how == "text":
        at = rng.randrange(len(content))
        content = content[:at] + rng.choice([b"", b"\xff" + content[at + 1 :], b"0" + content[at + 1 :]])
    return f"{kind}: {how}", content


def _change_somewhere(rng: random.Random, values: Any) -> str:
    """Replace or delete a value at a random place. Returns the place."""
    place, path = values, []
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys[:40])
        path.append(str(key))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.2:
            break
        place = place[key]
    if rng.random() < 0.3:
        del place[key]
    else:
        place[key] = rng.choice(ODD)
    return f"change {'.'.join(path)}"


def try_one(seed: int) -> Outcome:
    """Read a mutated tokenizer, and compare its ids with those of the library."""
    what, content = mutate(random.Random(seed))
    try:
        tokenizer = HuggingFace(content, None)
        wrong = _compared(tokenizer, content)
    except UserError as error:
        return Outcome(what, imported=False, refusal=str(error))
    except Exception as error:
        return Outcome(what, imported=False, wrong=f"{type(error).__name__}: {error}")
    return Outcome(what, imported=True, wrong=wrong)


def _compared(tokenizer: HuggingFace, content: bytes) -> str:
    """Return what is wrong with a tokenizer. Raises UserError where it names a text that it cannot write."""
    peer = tokenizers.Tokenizer.from_str(content.decode())
    peer.no_truncation()
    peer.no_padding()
    if tokenizer.vocab_size != 1 + max(peer.get_vocab(with_added_tokens=True).values()):
        return f"vocab_size is {tokenizer.vocab_size}"
    for text in PLAIN:
        if tokenizer.encode(text) != peer.encode(text, add_special_tokens=False).ids:
            return f"{text!r} has other ids"
    added = [token["content"] for token in json.loads(content).get("added_tokens") or []]
    for text in (f"the {end}model" for end in {tokenizer.end, *added}):
        ids = tokenizer.encode(text)
        if tokenizer.eos_id in ids or max(ids, default=0) >= tokenizer.vocab_size or min(ids, default=0) < 0:
            return f"{text!r} has the ids {ids}"
    return ""
