"""Stacked recurrent layers between embedding and head, as in Zaremba et al. 2014, Grave et al. 2017, AWD-LSTM.

Shapes: B batch, T tokens, D values of a word, H hidden width.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.models.common.dropping import WordDropout, dropout_of
from trainer.models.common.ends import make_embedding, make_head
from trainer.models.interface import Context, LanguageModel, LayerState, State, places, tie_head
from trainer.models.recurrent.cells import LstmCell, QrnnCell
from trainer.models.recurrent.config import RecurrentConfig
from trainer.models.recurrent.roles import roles


class Layer(nn.Module):
    """A recurrent layer and the dropout of its output. That of the last layer is the model's."""

    def __init__(self, config: RecurrentConfig, layer: int) -> None:
        super().__init__()
        inputs, hidden = config.layers[layer]
        self.mixer: nn.Module
        if config.cell == "lstm":
            self.mixer = LstmCell(inputs, hidden, config.weight_drop)
        else:
            self.mixer = QrnnCell(inputs, hidden, config.kernel(layer), config.weight_drop)
        last = layer == config.n_layers - 1
        self.dropout = dropout_of(0.0 if last else config.hidden_dropout, variational=config.variational)

    def forward(self, x: Tensor, context: Context, state: LayerState | None = None) -> Tensor:
        """Return (B, T, H) for x (B, T, width of the layer before)."""
        dropped: Tensor = self.dropout(self.mixer(x, context=context, state=state))
        return dropped


class Recurrent(LanguageModel):
    """Embedding, recurrent layers, a projection where the head is the embedding and narrower or wider, and the head."""

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config, roles(config))
        self.embed = make_embedding(config)
        self.word_dropout = WordDropout(config.word_dropout, config.vocab_rows)
        self.input_dropout = dropout_of(config.input_dropout, variational=config.variational)
        self.blocks = nn.ModuleList(Layer(config, layer) for layer in range(config.n_layers))
        self.dropout = dropout_of(config.dropout, variational=config.variational)
        last = config.hidden[-1]
        self.project = nn.Identity() if last == config.head_width else nn.Linear(last, config.head_width, bias=False)
        self.head = make_head(config)
        tie_head(self)
        self._penalty: Tensor | None = None  # of each token (B, T), from the last training pass

    def hidden(self, inputs: Tensor, documents: Tensor | None, positions: Tensor | None, state: State | None) -> Tensor:
        """Return what the head reads, (B, T, D or H)."""
        context = Context(places(inputs, positions, state), documents=documents)
        x = self.input_dropout(self.word_dropout(self.embed(inputs), inputs))
        for number, block in enumerate(self.blocks):
            x = block(x, context=context, state=None if state is None else state.layers[number])
        dropped = self.dropout(x)
        self._penalty = self._penalise(x, dropped) if self.training else None
        read: Tensor = self.project(dropped)
        return read

    def _penalise(self, x: Tensor, dropped: Tensor) -> Tensor | None:
        """Return activation regularisation and temporal activation regularisation of each token (Merity et al. 2017).

        arXiv 1708.01009. Their means over tokens are what AWD-LSTM adds to its loss.
        """
        penalty: Tensor | None = None
        if self.config.activation_penalty:
            penalty = self.config.activation_penalty * dropped.float().square().mean(-1)
        if self.config.slowness_penalty and x.shape[1] > 1:
            change = (x[:, 1:] - x[:, :-1]).float().square().mean(-1)
            share = self.config.slowness_penalty * x.shape[1] / (x.shape[1] - 1)  # there is one change fewer
            change = nn.functional.pad(share * change, (1, 0))
            penalty = change if penalty is None else penalty + change
        return penalty

    @property
    def state_limit(self) -> int | None:
        """None: a state reads any number of tokens."""
        return None

    def penalised(self, losses: Tensor) -> Tensor:
        """Return the losses; penalties join their gradient, not their values."""
        penalty, self._penalty = self._penalty, None
        return losses if penalty is None else losses + (penalty - penalty.detach())
