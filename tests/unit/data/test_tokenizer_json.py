"""A tokenizer that leaves Escala gives the same ids in `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.data import tokenizer_files as files
from trainer.config.data import TokenizerConfig
from trainer.data.tokenize.tokenizer import load_tokenizer, save_tokenizer
from trainer.data.tokenize.tokenizer_json import tokenizer_json
from trainer.data.tokenize.tokenizer_training import train_sentencepiece

transformers = pytest.importorskip("transformers")

TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        st.sampled_from([*files.WORDS, " ", "  ", "\n", "\t", "\r\n", "the model", "123"]),
    ),
    max_size=20,
).map("".join)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    root = tmp_path_factory.mktemp("tokenizers")
    models = {
        "bpe": ("sentencepiece", train_sentencepiece(TokenizerConfig(vocab_size=360), files.sample())),
        "unigram": (
            "sentencepiece",
            train_sentencepiece(TokenizerConfig(kind="unigram", vocab_size=300), files.sample()),
        ),
        "bytes": ("bytes", b""),
        "huggingface": ("huggingface", files.content(files.byte_level())),
    }
    made = {}
    for name, (kind, content) in models.items():
        ours = save_tokenizer(root / name, kind, content)
        exported = tokenizer_json(root / name)
        assert exported is not None
        (root / name / "tokenizer.json").write_text(exported[0])
        theirs = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(root / name / "tokenizer.json"),
            eos_token=exported[1],
            clean_up_tokenization_spaces=False,
        )
        assert theirs.eos_token_id == ours.eos_id and len(theirs) == ours.vocab_size
        made[name] = (load_tokenizer(root / name), theirs)
    return made


@pytest.mark.parametrize("name", ["bpe", "unigram", "bytes", "huggingface"])
@given(text=TEXT)
@settings(max_examples=150, deadline=None)
def test_the_ids_are_the_same(pairs: dict[str, tuple[Any, Any]], name: str, text: str) -> None:
    ours, theirs = pairs[name]
    ids = ours.encode(text)
    assert theirs.encode(text, add_special_tokens=False) == ids
    assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)


def test_a_model_that_marks_its_beginning_has_none(tmp_path: Path) -> None:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(files.sample()),
        model_writer=model,
        vocab_size=200,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    save_tokenizer(tmp_path, "sentencepiece", model.getvalue())
    assert tokenizer_json(tmp_path) is None
