"""v1 to v4: embedding, stacked LSTM or GRU, linear output (thesis section 3.1).

Sizes follow Keras, in which the thesis was written, so that parameter counts equal the published
ones. PyTorch's LSTM has two bias vectors where Keras has one; only their sum matters, so the second
is held at zero and is not trainable. The GRU of Keras (``reset_after=True``) has two, as here.

Shapes: B batch, T time, D width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cordel.runtime.params import require


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The shape of one recurrent model."""

    cell: Literal["lstm", "gru"]
    d_embedding: int
    d_model: int
    n_layer: int
    layer_norm: bool  # after each layer, epsilon 1e-5 (v3)
    input_dropout: float  # on the embeddings (v2)
    output_dropout: float  # before the output layer (v3, v4)

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.d_embedding > 0, f"d_embedding is {self.d_embedding}, expected at least 1")
        require(self.d_model > 0, f"d_model is {self.d_model}, expected at least 1")
        require(self.n_layer > 0, f"n_layer is {self.n_layer}, expected at least 1")
        for name in ("input_dropout", "output_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} is {value}, expected 0 <= x < 1")


class Model(nn.Module):
    """A recurrent language model that predicts the next id at every position."""

    carries_state = True

    def __init__(self, params: Params, *, vocab_size: int, context_length: int) -> None:
        """Build the layers with Keras' default initialisation."""
        super().__init__()
        self.context_length = context_length
        self.embedding = nn.Embedding(vocab_size, params.d_embedding)
        self.input_dropout = nn.Dropout(params.input_dropout)
        cell = nn.LSTM if params.cell == "lstm" else nn.GRU
        widths = [params.d_embedding] + [params.d_model] * (params.n_layer - 1)
        self.layers = nn.ModuleList(cell(w, params.d_model, batch_first=True) for w in widths)
        norm = (
            (lambda: nn.LayerNorm(params.d_model, eps=1e-5)) if params.layer_norm else nn.Identity
        )
        self.norms = nn.ModuleList(norm() for _ in widths)
        self.output_dropout = nn.Dropout(params.output_dropout)
        self.output = nn.Linear(params.d_model, vocab_size)
        self._initialise()

    def _initialise(self) -> None:
        """Keras: uniform embedding, glorot kernels, orthogonal recurrence, forget bias 1."""
        nn.init.uniform_(self.embedding.weight, -0.05, 0.05)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        for layer in self.layers:
            d_model = self.output.in_features
            for name, value in layer.named_parameters():
                if name.startswith("bias"):
                    nn.init.zeros_(value)
                else:
                    # Over all gates at once, as Keras does; gate by gate the weights would be
                    # up to sqrt(3) (GRU) or 2 (LSTM) times larger.
                    init = nn.init.xavier_uniform_ if "ih" in name else nn.init.orthogonal_
                    init(value)
            if isinstance(layer, nn.LSTM):
                # PyTorch's order of gates: input, forget, cell, output.
                layer.get_parameter("bias_ih_l0").data[d_model : 2 * d_model] = 1.0
                layer.get_parameter("bias_hh_l0").requires_grad_(False)

    def initial_state(self) -> list[Any]:
        """Return None per layer: PyTorch starts a layer without a state from zeros."""
        return [None] * len(self.layers)

    @property
    def head(self) -> tuple[Tensor, Tensor]:
        """Return the output's matrix and bias."""
        return self.output.weight, self.output.bias

    def features(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return the head's input ``float[B, T, D]`` and the state after the last position."""
        x_BTD = self.input_dropout(self.embedding(ids_BT))
        after = []
        for layer, norm, before in zip(
            self.layers, self.norms, state or self.initial_state(), strict=True
        ):
            x_BTD, hidden = layer(x_BTD, before)
            x_BTD = norm(x_BTD)
            after.append(hidden)
        return self.output_dropout(x_BTD), after

    def forward(self, ids_BT: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Return ``float[B, T, V]`` logits and the state after the last position."""
        x_BTD, after = self.features(ids_BT, state)
        return F.linear(x_BTD, *self.head), after
