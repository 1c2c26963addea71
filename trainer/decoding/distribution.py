"""From logits to the distribution that is drawn from: penalty, temperature, and cuts of its tail.

Shapes: B rows, V vocabulary. Each step gives logits again, with -inf for what is cut; the best token always stays.
The steps come in the order of `shaped`, each on what the one before left, as in `transformers`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.config.decoding import DecodingConfig


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that were there before (`seen`, (B, V) bool) less probable (Keskar et al. 2019, arXiv 1909.05858).

    They divide such a logit by the penalty. A negative one would grow by that, so it is multiplied.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most probable tokens, and those that equal the last of them (Fan et al. 2018, arXiv 1805.04833)."""
    if k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Tensor, mass: float) -> Tensor:
    """Keep the smallest set of best tokens with this probability (Holtzman et al. 2020, arXiv 1904.09751)."""
    return _keep_first(logits, -logits, mass)


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Keep tokens with at least this share of the best one's probability (Nguyen et al. 2024, arXiv 2407.01082)."""
    logprobs = logits.log_softmax(-1)
    least = logprobs.amax(-1, keepdim=True) + torch.tensor(share, dtype=logprobs.dtype).log()
    return logits.masked_fill(logprobs < least, -torch.inf)


def keep_typical(logits: Tensor, mass: float) -> Tensor:
    """Keep tokens whose surprise is nearest the entropy, up to this mass (Meister et al. 2022, arXiv 2202.00666)."""
    logprobs = logits.log_softmax(-1)
    entropy = -(logprobs.exp() * logprobs).nansum(-1, keepdim=True)  # 0 * -inf is 0 here
    return _keep_first(logits, (-logprobs - entropy).abs(), mass)


def _keep_first(logits: Tensor, order: Tensor, mass: float) -> Tensor:
    """Keep the first tokens in ascending `order` (B, V) whose probabilities reach `mass`."""
    places = order.argsort(dim=-1, stable=True)
    probabilities = logits.softmax(-1).gather(-1, places)
    before = probabilities.cumsum(-1) - probabilities
    cut = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, places, before >= mass)
    return logits.masked_fill(cut, -torch.inf)


def shaped(logits: Tensor, config: DecodingConfig, seen: Tensor | None = None) -> Tensor:
    """Return the logits (B, V) of the distribution to draw from. The temperature must be above 0."""
    if seen is not None:
        logits = penalised(logits, seen, config.repetition_penalty)
    logits = logits / config.temperature
    if config.top_k is not None:
        logits = keep_top_k(logits, config.top_k)
    if config.top_p is not None and config.top_p < 1:
        logits = keep_top_p(logits, config.top_p)
    if config.min_p is not None:
        logits = keep_min_p(logits, config.min_p)
    if config.typical is not None and config.typical < 1:
        logits = keep_typical(logits, config.typical)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return the tokens (B) where the cumulated probabilities of logits (B, V) pass `uniform` (B, float64, in [0, 1)).

    A token of probability 0 never comes.
    """
    cumulated = logits.double().softmax(-1).cumsum(-1)
    at = uniform[:, None].to(cumulated.device) * cumulated[:, -1:]
    return torch.searchsorted(cumulated, at, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
