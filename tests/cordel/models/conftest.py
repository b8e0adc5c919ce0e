"""One tiny model of each architecture."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cordel.models import build_model, parse_architecture

VOCAB_SIZE, CONTEXT_LENGTH = 11, 16
RNN = {"d_embedding": 6, "d_model": 8, "n_layer": 2, "layer_norm": True}
RNN |= {"input_dropout": 0.0, "output_dropout": 0.0}
LLAMA = {"d_model": 12, "n_layer": 2, "n_head": 2, "d_ff": 20, "tied": False}
LLAMA |= {"rope_theta": 10000.0, "norm_epsilon": 1e-5, "init_sd": 0.3}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("rnn", RNN | {"cell": "lstm"}),
    "gru": ("rnn", RNN | {"cell": "gru"}),
    "gpt": ("gpt", {"d_model": 12, "n_layer": 2, "n_head": 3, "d_ff": 20, "dropout": 0.0}),
    "llama": ("llama", LLAMA),
    "llama_tied": ("llama", LLAMA | {"tied": True}),
}


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one core."""


@pytest.fixture
def build() -> Callable[..., Any]:
    """Return a function that builds the tiny model ``name``, with changes to its shape."""

    def build(name: str, **changes: Any) -> Any:
        architecture, shape = TINY[name]
        params = parse_architecture(architecture, shape | changes, "tiny")
        torch.manual_seed(0)
        model = build_model(
            architecture, params, vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH
        )
        return model.eval()

    return build
