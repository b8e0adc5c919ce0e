"""Twenty steps of each architecture against losses measured before: the law of numerics.

A change that should not touch the numbers must keep these; one that should must say so. Then
``python -m tests.golden.test_losses`` writes ``losses.json`` anew, and the change goes into
CHANGELOG.md. The losses move in the last digits between types of CPU, hence a tolerance; dropout,
whose random numbers differ between builds of torch, is left out.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from cordel.compute import Compute, seed_everything
from cordel.models import build_model, parse_architecture
from cordel.tokens import SplitMeta
from cordel.training.loop import Trainer
from cordel.training.params import TrainingParams

FILE = Path(__file__).with_name("losses.json")
STEPS, CONTEXT, BATCH, VOCAB_SIZE = 20, 16, 4, 32
CPU = Compute(device="cpu", device_name="cpu", dtype="float32", threads=1, compile=False)
RNN = {"d_embedding": 12, "d_model": 24, "n_layer": 2, "layer_norm": True}
RNN |= {"input_dropout": 0.0, "output_dropout": 0.0}
ADAM = {"optimizer": "adam", "clip_mode": "per_variable", "schedule": "constant"}
RUNS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lstm": ("rnn", RNN | {"cell": "lstm"}, ADAM),
    "gru": ("rnn", RNN | {"cell": "gru"}, ADAM),
    "gpt": (
        "gpt",
        {"d_model": 16, "n_layer": 2, "n_head": 4, "d_ff": 32, "dropout": 0.0},
        {"label_smoothing": 0.05, "weight_decay": 0.01, "schedule": "cosine", "warmup_steps": 3},
    ),
    "llama": (
        "llama",
        {
            "d_model": 16,
            "n_layer": 2,
            "n_head": 4,
            "d_ff": 24,
            "tied": False,
            "rope_theta": 10000.0,
            "norm_epsilon": 1e-5,
            "init_sd": 0.02,
        },
        {"optimizer": "muon", "decay_scope": "matrices", "schedule": "wsd", "warmup_steps": 3},
    ),
}
TRAINING: dict[str, Any] = {
    "seed": 42,
    "context_length": CONTEXT,
    "stride": CONTEXT,
    "targets": "all",
    "batch_size": BATCH,
    "epochs": 1.0,
    "schedule_epochs": 1.0,
    "patience": None,
    "evaluations": STEPS,
    "optimizer": "adamw",
    "unigram_bias": False,
    "bigram_start": None,
    "teacher_share": 0.0,
    "learning_rate": 0.01,
    "muon_learning_rate": 0.02,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "decay_scope": "all",
    "schedule": "constant",
    "warmup_steps": 0,
    "decay_share": 0.4,
    "grad_clip": 1.0,
    "clip_mode": "global",
    "label_smoothing": 0.0,
    "fallback_penalty": 0.0,
}


def measure(name: str) -> dict[str, list[float]]:
    """Return the bits a token on train, and on val, of the steps of a tiny run."""
    architecture, shape, changes = RUNS[name]
    torch.set_num_threads(1)
    seed_everything(42)
    params = parse_architecture(architecture, shape, "golden")
    model = build_model(architecture, params, vocab_size=VOCAB_SIZE, context_length=CONTEXT)
    # A text that can be learnt; windows shuffled from an offset need a stride more than lanes.
    places = np.arange(STEPS * BATCH * CONTEXT + 1 + CONTEXT)
    ids = (places**2 // 3 % VOCAB_SIZE).astype(np.uint16)
    meta = SplitMeta(documents=1, tokens=200, bytes=400, unknown_bytes=0)
    trainer = Trainer(
        model,
        TrainingParams(**(TRAINING | changes)),
        train_ids=ids,
        val_ids=ids[:200],
        val_meta=meta,
        compute=CPU,
    )
    with TemporaryDirectory() as folder:
        curve = trainer.run(Path(folder), name).curve
    return {
        key: [row[f"{key}_bits_per_token"] for row in curve[first:]]
        for key, first in (("train", 1), ("val", 0))
    }


@pytest.mark.parametrize("name", sorted(RUNS))
def test_twenty_steps_have_the_losses_of_before(name: str) -> None:
    golden = json.loads(FILE.read_text())["bits_per_token"][name]
    found = measure(name)
    assert len(found["train"]) == STEPS
    assert found["train"] == pytest.approx(golden["train"], rel=1e-4)
    assert found["val"] == pytest.approx(golden["val"], rel=1e-4)


def main() -> None:
    """Write the losses as they are now."""
    value = {
        "how": "python -m tests.golden.test_losses",
        "bits_per_token": {name: measure(name) for name in RUNS},
    }
    FILE.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
