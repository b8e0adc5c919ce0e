"""Tiny models of each architecture, with weights large enough that context matters."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cordel.compute import Compute, ComputeParams, decide
from cordel.models import build_model, parse_architecture

VOCAB_SIZE, CONTEXT_LENGTH = 11, 8
TINY: dict[str, dict[str, Any]] = {
    "rnn": {
        "cell": "lstm",
        "d_embedding": 6,
        "d_model": 8,
        "n_layer": 2,
        "layer_norm": False,
        "input_dropout": 0.0,
        "output_dropout": 0.0,
    },
    "gpt": {"d_model": 12, "n_layer": 2, "n_head": 2, "d_ff": 16, "dropout": 0.0},
    "llama": {
        "d_model": 12,
        "n_layer": 2,
        "n_head": 2,
        "d_ff": 16,
        "tied": False,
        "rope_theta": 10000.0,
        "norm_epsilon": 1e-5,
        "init_sd": 0.4,
    },
}


@pytest.fixture
def compute() -> Compute:
    """Return one thread of a CPU, in float32."""
    return decide(ComputeParams(device="cpu", threads=1, compile=False))


@pytest.fixture
def build() -> Callable[..., Any]:
    """Return a function that builds the tiny model ``name`` with random weights."""
    torch.set_num_threads(1)

    def build(name: str, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        params = parse_architecture(name, TINY[name], "tiny")
        model = build_model(name, params, vocab_size=VOCAB_SIZE, context_length=CONTEXT_LENGTH)
        for value in model.parameters():
            torch.nn.init.normal_(value, std=0.4)
        return model.eval()

    return build
