"""Tokenizer files of Hugging Face: ids with gaps have a place, and no text of a document becomes its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.data import tokenizer_files as files
from tests.unit.data.tokenizer_files import END, content
from trainer.contract.errors import UserError
from trainer.data.prepare.encode import Codec, SplitRule, encode_chunk
from trainer.data.prepare.parts import dtype_for
from trainer.data.tokenize.huggingface_tokenizer import HuggingFace
from trainer.data.tokenize.tokenizer import load_tokenizer, save_tokenizer

ENDS = {"byte_level": END, "unigram": "</s>", "word_level": "<eos>", "word_piece": "[SEP]"}


@pytest.mark.parametrize("factor", [1, 3, 200])
def test_the_vocabulary_is_the_largest_id_and_one(factor: int) -> None:
    values = files.spread(files.byte_level(), factor)
    tokenizer = HuggingFace(content(values), None)
    assert tokenizer.vocab_size == factor * 349 + 1
    dtype = dtype_for(tokenizer.vocab_size)
    assert dtype == ("uint32" if factor == 200 else "uint16")
    texts = [text.encode() for text in files.sample(20)]
    chunk = encode_chunk(texts, Codec(tokenizer, dtype), SplitRule(0.0)).train
    ids = np.frombuffer(chunk.tokens, dtype).astype(int)
    assert int(ids.max()) < tokenizer.vocab_size and (ids == tokenizer.eos_id).sum() == len(texts)
    documents = np.split(ids, np.cumsum(chunk.lengths)[:-1])
    assert [tokenizer.decode(document) for document in documents] == files.sample(20)


def test_an_added_token_past_the_end_counts() -> None:
    values = files.byte_level()
    for number, word in ((350, "<pad>"), (351, "<|user|>")):
        values["added_tokens"].append({**values["added_tokens"][0], "id": number, "content": word, "special": False})
    tokenizer = HuggingFace(content(values), None)
    assert tokenizer.vocab_size == 352
    assert 351 in tokenizer.encode("hello <|user|> there")
    assert tokenizer.decode(tokenizer.encode("hello <|user|> there")) == "hello <|user|> there"


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", files.ALL)
def test_the_end_token_in_a_text_is_text(kind: str, special: bool, tmp_path: Path) -> None:
    values, end = files.ALL[kind](), ENDS[kind]
    for token in values["added_tokens"]:
        token["special"] = special
    tokenizer = save_tokenizer(tmp_path, "huggingface", content(values))
    for text in (f"the {end} model", end, f"{end}{end}", f"the{end}model"):
        assert tokenizer.eos_id not in tokenizer.encode(text), text
        if kind in ("byte_level", "unigram"):
            assert tokenizer.decode(tokenizer.encode(text)) == text
    again = load_tokenizer(tmp_path)
    assert again.encode(f"the {end} model") == tokenizer.encode(f"the {end} model")
    assert again.piece(again.eos_id) == end and again.decode([again.eos_id]) == ""


def test_an_end_token_that_only_the_model_knows_is_text_too() -> None:
    """Neither added nor special; merges build it, and a piece of it more."""
    values = files.byte_level(end="<s>")
    vocab: dict[str, int] = values["model"]["vocab"]
    for word, merge in (("ab", ["a", "b"]), ("abc", ["ab", "c"])):
        vocab[word] = len(vocab)
        values["model"]["merges"].append(merge)
    tokenizer = HuggingFace(content(values), "ab")
    assert tokenizer.decode(tokenizer.encode("xabcab")) == "xabcab"
    assert tokenizer.eos_id == vocab["ab"] and tokenizer.eos_id not in tokenizer.encode("xabcab")


@given(
    parts=st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.just(END)), max_size=9)
)
@settings(max_examples=100, deadline=None)
def test_byte_level_texts_come_back(parts: list[str]) -> None:
    tokenizer = _byte_level()
    text = "".join(parts)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.eos_id not in ids


_made: list[HuggingFace] = []


def _byte_level() -> HuggingFace:
    if not _made:
        _made.append(HuggingFace(content(files.byte_level()), None))
    return _made[0]


def changed(values: dict[str, Any], **model: Any) -> bytes:
    return content({**values, "model": {**values["model"], **model}})


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(UserError, match=r"BPE dropout of 0.1.*set model.dropout to null"):
        HuggingFace(changed(files.byte_level(), dropout=0.1), None)
    with pytest.raises(UserError, match="no end-of-document token"):
        HuggingFace(content(files.byte_level(end="<stop>")), None)
    with pytest.raises(UserError, match="its vocabulary is empty"):
        HuggingFace(
            content({**files.byte_level(), "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}),
            None,
        )
    for damaged in (b"", b"{", b"\xff\xfe", b"[]", content({**files.byte_level(), "model": {"type": "LSTM"}})):
        with pytest.raises(UserError, match=r"not a tokenizer\.json"):
            HuggingFace(damaged, None)


def test_text_that_the_tokenizer_cannot_write_is_named() -> None:
    no_unknown = HuggingFace(changed(files.word_level(), unk_token="<none>"), None)
    with pytest.raises(UserError, match=r"cannot encode 'unseen': .*Missing"):
        no_unknown.encode("unseen")
    ends = HuggingFace(content(files.word_level(end="<eos>", unknown="<eos>")), None)
    with pytest.raises(UserError, match=r"writes 'unseen' as '<eos>', which ends a document"):
        ends.encode("the unseen model")


def test_a_chunk_with_a_foreign_id_or_an_end_in_a_text_is_refused() -> None:
    """The last line of defence, below any tokenizer."""

    class Wrong:
        vocab_size, eos_id, hash, eos_ends_documents = 10, 9, "", True
        ids: tuple[int, ...] = ()

        def encoder(self, itemsize: int) -> Any:
            return lambda text: np.array(self.ids, f"<u{itemsize}").tobytes()

    for ids, problem in (
        ((3, 10), "gave id 10, outside its vocabulary of 10"),
        ((3, 9, 4), "end token, id 9, is 1 times"),
    ):
        wrong = Wrong()
        wrong.ids = ids
        with pytest.raises(UserError, match=problem):
            encode_chunk([b"text"], Codec(wrong, "uint16"), SplitRule(0.0))  # type: ignore[arg-type]


def test_a_damaged_note_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, "bytes", b"")
    for text in (
        "{",
        "[]",
        '{"kind": "magic", "file": null, "hash": ""}',
        '{"kind": "bytes", "file": "../x", "hash": ""}',
    ):
        (tmp_path / "meta.json").write_text(text)
        with pytest.raises(UserError, match=r"meta\.json (is damaged|does not describe)"):
            load_tokenizer(tmp_path)
