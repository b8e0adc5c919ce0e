"""A tiny run of any architecture, built anew as often as a test likes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cordel.compute import Compute
from cordel.models import build_model, parse_architecture
from cordel.runtime import console
from cordel.tokens import SplitMeta
from cordel.training.loop import Trainer
from cordel.training.params import TrainingParams

VOCAB_SIZE = 13
RNN = {"d_embedding": 6, "d_model": 8, "n_layer": 1, "layer_norm": False}
RNN |= {"input_dropout": 0.2, "output_dropout": 0.2}
GPT = {"d_model": 8, "n_layer": 1, "n_head": 2, "d_ff": 12, "dropout": 0.2}
LLAMA = {"d_model": 8, "n_layer": 2, "n_head": 2, "d_ff": 12, "tied": False}
LLAMA |= {"rope_theta": 10000.0, "norm_epsilon": 1e-5, "init_sd": 0.05}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("rnn", RNN | {"cell": "lstm"}),
    "gru": ("rnn", RNN | {"cell": "gru"}),
    "gpt": ("gpt", GPT),
    "llama": ("llama", LLAMA),
}
PARAMS: dict[str, Any] = {  # 12 steps of 2 x 5 tokens on the ids below
    "seed": 1,
    "context_length": 5,
    "stride": 5,
    "targets": "all",
    "batch_size": 2,
    "epochs": 1.0,
    "schedule_epochs": 1.0,
    "patience": None,
    "evaluations": 3,
    "optimizer": "adamw",
    "unigram_bias": False,
    "bigram_start": None,
    "teacher_share": 0.0,
    "learning_rate": 0.01,
    "muon_learning_rate": 0.02,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.01,
    "decay_scope": "all",
    "schedule": "constant",
    "warmup_steps": 0,
    "decay_share": 0.4,
    "grad_clip": 1.0,
    "clip_mode": "global",
    "label_smoothing": 0.0,
    "fallback_penalty": 0.0,
}
# 12 x 10 + 1 ids fill 12 steps of a recurrent model; windows need a stride less one more.
TRAIN_IDS = ((np.arange(125) ** 2) % VOCAB_SIZE).astype(np.uint16)
VAL_IDS = ((np.arange(41) ** 2 + 1) % VOCAB_SIZE).astype(np.uint16)
VAL_META = SplitMeta(documents=1, tokens=41, bytes=100, unknown_bytes=0)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one core."""


@pytest.fixture(autouse=True)
def _no_signal_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the signals of other tests; a process of a stage gets one at most."""
    monkeypatch.setattr(console, "_received", [])


@pytest.fixture
def training() -> Callable[..., TrainingParams]:
    """Return a function that gives the parameters of the tiny run, with changes."""

    def training(**changes: Any) -> TrainingParams:
        if "epochs" in changes:
            changes = {"schedule_epochs": changes["epochs"]} | changes
        return TrainingParams(**(PARAMS | changes))

    return training


@pytest.fixture
def build() -> Callable[..., Any]:
    """Return a function that builds the tiny model ``name`` from ``seed``."""

    def build(name: str, *, seed: int = 0, vocab_size: int = VOCAB_SIZE) -> Any:
        architecture, shape = SHAPES[name]
        params = parse_architecture(architecture, shape, "tiny")
        torch.manual_seed(seed)
        return build_model(architecture, params, vocab_size=vocab_size, context_length=5)

    return build


@pytest.fixture
def trainer(build: Callable, training: Callable) -> Callable[..., Trainer]:
    """Return a function that gives a trainer of the tiny model ``name``, with changes."""

    def trainer(name: str = "lstm", *, seed: int = 0, data: dict | None = None, **changes: Any):
        compute = Compute(
            device="cpu", device_name="cpu", dtype="float32", threads=1, compile=False
        )
        ids = {"train_ids": TRAIN_IDS, "val_ids": VAL_IDS, "val_meta": VAL_META} | (data or {})
        return Trainer(build(name, seed=seed), training(**changes), compute=compute, **ids)

    return trainer
