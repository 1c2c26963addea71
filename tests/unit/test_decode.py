"""Decoding: the cache changes nothing, and the distributions are what their papers say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.data.builders import EOS, random_docs, write_set
from trainer.contract.errors import UserError
from trainer.data.read.batches import to_micro_batch
from trainer.data.read.packing import PackedSet
from trainer.data.store.token_set import TokenSet
from trainer.data.tokenize.tokenizer import Bytes
from trainer.decoding.decode import Decoding, distribution, generate
from trainer.decoding.sample import first_tokens
from trainer.models.build import build_model
from trainer.models.transformer.config import TransformerConfig


def tiny(**changes) -> torch.nn.Module:
    settings = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 50, "context_length": 16}
    return build_model(TransformerConfig(**{**settings, **changes}), seed=1)


def decode(model, prompt, tokens, decoding=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    stream = generate(
        model, prompt, tokens=tokens, decoding=decoding or Decoding(0.0), generator=generator, vocab_size=50
    )
    return torch.stack(list(stream), dim=1)


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_cached_decoding_equals_reading_everything_again(position: str):
    model = tiny(position=position)
    prompt = torch.tensor([[3, 7, 1], [9, 9, 2]])
    got = decode(model, prompt, tokens=10)
    history = prompt
    for _ in range(10):
        with torch.inference_mode():
            history = torch.cat([history, model(history)[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(got, history[:, 3:])


def test_decoding_goes_on_beyond_the_context():
    assert decode(tiny(), torch.tensor([[1]]), tokens=50).shape == (1, 50)


def test_sampling_is_repeated_by_its_seed():
    sampled = [decode(tiny(), torch.tensor([[1]]), 20, Decoding(1.0, top_p=0.9), seed) for seed in (0, 0, 1)]
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])


def test_top_k_and_top_p_keep_the_smallest_sets_that_they_should():
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    assert distribution(logits, Decoding(1.0, top_k=2))[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert distribution(logits, Decoding(1.0, top_p=0.6))[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert distribution(logits, Decoding(1.0, top_p=0.01))[0].tolist() == [1, 0, 0, 0]
    assert distribution(logits, Decoding(0.0))[0].tolist() == [1, 0, 0, 0]
    assert distribution(logits, Decoding(0.5))[0].tolist() == pytest.approx([0.727, 0.182, 0.0455, 0.0455], abs=1e-3)


@pytest.mark.parametrize(
    "bad",
    [{"temperature": t} for t in (-1, math.nan, math.inf, 1e-40)]
    + [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_p": math.nan}],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(UserError):
        Decoding(**bad)


def test_the_coldest_temperature_gives_a_distribution():
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    assert distribution(logits, Decoding(1e-6))[0].tolist() == [1, 0, 0]


def test_a_diverged_model_is_no_traceback():
    model = tiny()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(math.nan)
    with pytest.raises(UserError, match="not finite numbers"):
        decode(model, torch.tensor([[1]]), 3)


def test_confined_models_read_an_end_token_before_a_prompt():
    assert first_tokens(Bytes(), "ab", confined=True) == [256, 97, 98]
    assert first_tokens(Bytes(), "ab", confined=False) == [97, 98]
    assert first_tokens(Bytes(), "", confined=False) == first_tokens(Bytes(), "", confined=True) == [256]


def test_decoding_from_the_end_token_is_what_packed_training_showed(tmp_path: Path):
    """The loss of each document's first token in packed and in masked batches is that of decoding without a prompt."""
    write_set(tmp_path, {"a": random_docs(1, 60)})
    model = tiny(vocab_size=1000)
    alone = -model(torch.tensor([[EOS]]))[0, 0].log_softmax(-1)
    tokens = TokenSet.open(tmp_path)
    packed, masked = PackedSet(tokens, 16).arrays, tokens.arrays
    for arrays in (packed(np.arange(40), 16), masked(np.arange(40), 16, documents=True)):
        batch = to_micro_batch(arrays)
        losses = model(batch.inputs, batch.targets, documents=batch.documents)
        begins = batch.inputs == EOS if batch.weights is None else (batch.inputs == EOS) & (batch.weights > 0)
        assert begins.sum() > 10
        assert torch.allclose(losses[begins], alone[batch.targets[begins]], atol=1e-4)
