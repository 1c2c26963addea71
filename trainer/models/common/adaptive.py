"""Adaptive softmax (Grave et al. 2017, arXiv 1609.04309) and adaptive input (Baevski and Auli 2019, arXiv 1809.10853).

Words lie in bands by frequency. The head's first softmax is over the words of the first band and one class for each
other band; a band's own softmax is over its words, and only tokens with a target there pay for it. Each band has fewer
values to a word than the one before.

Shapes: B batch, T tokens, N tokens in one row, D width, V vocabulary rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config.model import Band
from trainer.contract.errors import UserError
from trainer.models.common.head import Head, wanted


class AdaptiveEmbedding(nn.Module):
    """A table for each band, and a linear layer from its values to the model's width."""

    def __init__(self, bands: list[Band], d_model: int) -> None:
        super().__init__()
        self.bands, self.d_model = bands, d_model
        self.tables = nn.ModuleList(nn.Embedding(band.size, band.width) for band in bands)
        self.up = nn.ModuleList(nn.Linear(band.width, d_model, bias=False) for band in bands)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, T, D) for words (B, T)."""
        words, values, places = inputs.flatten(), [], []
        for band, table, up in zip(self.bands, self.tables, self.up, strict=True):
            # A band without words is read too: every rank must ask ZeRO 3 for the same parameters.
            place = ((words >= band.start) & (words < band.stop)).nonzero().squeeze(1)
            places.append(place)
            values.append(up(table(words[place] - band.start)))
        order = torch.cat(places).argsort()
        return torch.cat(values)[order].view(*inputs.shape, self.d_model)


class Down(nn.Module):
    """x W for a matrix W (D, band's width), laid out as the embedding's matrix in the other direction."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width) for x (N, D)."""
        return x @ self.weight


class AdaptiveHead(nn.Module):
    """Log-probabilities (B, T, V) of hidden (B, T, D), or with targets (B, T) their losses (B, T) in nats, float32.

    Equals `torch.nn.AdaptiveLogSoftmaxWithLoss`, whose head is `short` above `classes`.
    """

    def __init__(self, bands: list[Band], width: int) -> None:
        super().__init__()
        first, *others = bands
        self.bands = bands
        self.short = nn.Linear(width, first.size, bias=False)
        self.classes = nn.Linear(width, len(others), bias=False)
        self.down = nn.ModuleList(Down(width, band.width) for band in others)
        self.tails = nn.ModuleList(Head(band.width, band.size) for band in others)

    def tie(self, embed: AdaptiveEmbedding) -> None:
        """Use the embedding's tables and, in the other direction, its matrices. The first band needs no matrix."""
        self.short.weight = embed.tables[0].weight  # type: ignore[assignment]
        for number, (down, tail) in enumerate(zip(self.down, self.tails, strict=True), 1):
            down.weight, tail.weight = embed.up[number].weight, embed.tables[number].weight

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor | None = None,
        terms: float | tuple[float, float] = 0.0,
        softcap: float | None = None,
    ) -> Tensor:
        """`terms` are the label smoothing, and the z-loss if there is one. What has no meaning here is refused."""
        smoothing, z_loss = (terms, 0.0) if isinstance(terms, float) else terms
        if z_loss or softcap is not None:
            raise UserError(
                "an adaptive head has several softmaxes, which a z-loss or a cap of logits would not treat alike: set "
                "optim.z_loss to 0 and leave model.logit_softcap out, or leave model.adaptive out"
            )
        if targets is None:
            return self._log_probabilities(hidden)
        flat, words = hidden.flatten(0, 1), targets.flatten()
        if smoothing == 0:
            return self._losses(flat, words).view_as(targets)
        return -wanted(self._log_probabilities(flat), words, smoothing).view_as(targets)  # every word counts

    def _first(self, hidden: Tensor) -> Tensor:
        return torch.cat([self.short(hidden), self.classes(hidden)], dim=-1).float()

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        first = F.log_softmax(self._first(hidden), dim=-1)
        words, classes = first.split([self.bands[0].size, len(self.tails)], dim=-1)
        parts = [words]
        for number, (down, tail) in enumerate(zip(self.down, self.tails, strict=True)):
            own = F.log_softmax(tail(down(hidden)).float(), dim=-1)
            parts.append(own + classes[..., number, None])
        return torch.cat(parts, dim=-1)

    def _losses(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Return the losses (N) of hidden (N, D) and words (N)."""
        wanted_first, rest = words, []
        size = self.bands[0].size
        for number, (band, down, tail) in enumerate(zip(self.bands[1:], self.down, self.tails, strict=True)):
            inside = (words >= band.start) & (words < band.stop)
            wanted_first = torch.where(inside, size + number, wanted_first)
            place = inside.nonzero().squeeze(1)  # none at times, and asked for all the same, as above
            rest.append((place, tail(down(hidden[place])[None], (words[place] - band.start)[None])[0]))
        losses = F.cross_entropy(self._first(hidden), wanted_first, reduction="none")
        for place, own in rest:
            losses = losses.index_add(0, place, own)
        return losses
