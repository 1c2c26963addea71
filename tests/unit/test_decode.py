"""Decoding: the cache changes nothing, and the distributions are what their papers say."""

from __future__ import annotations

import pytest
import torch

from trainer.errors import UserError
from trainer.generation.decode import Decoding, distribution, generate
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


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(UserError):
        Decoding(**bad)
