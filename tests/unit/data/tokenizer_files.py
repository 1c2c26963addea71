"""Small tokenizer.json files of every kind of model, as plain JSON values."""

from __future__ import annotations

import json
import random
from typing import Any

import tokenizers

WORDS = "def return the of a  model  x1 self.value = 0.5 naïve Größe 数据 12345 \t\n\n    if else:\n".split(" ")  # noqa: SIM905
END = "<|endoftext|>"


def sample(documents: int = 200) -> list[str]:
    """Return documents of the words above, always the same."""
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=60)) for _ in range(documents)]


def byte_level(vocab_size: int = 350, end: str = END) -> dict[str, Any]:
    """Return a byte-level BPE, which gives every text back."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[end],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(sample(), trainer)
    return as_json(made)


def unigram(end: str = "</s>") -> dict[str, Any]:
    """Return a Unigram of letters and a few words, its end token in the model's vocabulary as sentencepiece has it."""
    letters = sorted({c for text in sample() for c in text.replace(" ", "▁")} | set("▁<>/s"))
    pieces = [("<unk>", 0.0), (end, 0.0), ("▁the", -2.0), ("▁model", -2.5), *((c, -5.0) for c in letters)]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    made.add_special_tokens(["<unk>", end])
    return as_json(made)


def word_level(end: str = "<eos>", unknown: str = "<unk>") -> dict[str, Any]:
    """Return a WordLevel of the words, split at white space, so that most texts come back changed."""
    words = sorted({word for text in sample() for word in text.split()} - {unknown, end})
    vocab = {word: number for number, word in enumerate(dict.fromkeys([unknown, end, *words]))}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token=unknown))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([end])
    return as_json(made)


def word_piece() -> dict[str, Any]:
    """Return a WordPiece as BERT has it: lower case, accents stripped."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.=:_[]"
    words = ["[UNK]", "[SEP]", "[CLS]", "the", "model", "##s", *letters, *(f"##{c}" for c in letters)]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece()
    made.add_special_tokens(["[UNK]", "[SEP]", "[CLS]"])
    return as_json(made)


ALL = {"byte_level": byte_level, "unigram": unigram, "word_level": word_level, "word_piece": word_piece}


def spread(values: dict[str, Any], factor: int) -> dict[str, Any]:
    """Return the tokenizer with every id multiplied by a factor, as files of pruned vocabularies have them."""
    values = json.loads(json.dumps(values))
    values["model"]["vocab"] = {word: factor * number for word, number in values["model"]["vocab"].items()}
    for token in values["added_tokens"]:
        token["id"] *= factor
    return values


def as_json(made: tokenizers.Tokenizer) -> dict[str, Any]:
    """Return the content of a tokenizer's file."""
    values: dict[str, Any] = json.loads(made.to_str())
    return values


def content(values: Any) -> bytes:
    """Return a file's bytes."""
    return json.dumps(values).encode()
