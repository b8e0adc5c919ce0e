"""RNN steps: every position a target, as here, against one target a window, as in the thesis.

v1's network at the sizes of the profile ``ptbr``, on the run's own characters. Both are trained for
equal CPU time; what they have learnt is scored on the same validation text with carried state.
"""

import time
from pathlib import Path
from typing import Any

from benchmarks.measure import interleave, rates
from cordel.compute import ComputeParams, decide, seed_everything
from cordel.models import build_model, parse_architecture
from cordel.runtime.errors import InputError
from cordel.runtime.params import parse
from cordel.tokens import read_ids, read_meta
from cordel.training.loop import Trainer
from cordel.training.params import TrainingParams

TOKENS = Path("data/tokens/char_web_20k")
CONTEXT, BATCH = 160, 64  # the thesis' window; rows of a step
SHAPE = {"cell": "lstm", "d_embedding": 64, "d_model": 256, "n_layer": 1}
SHAPE |= {"layer_norm": False, "input_dropout": 0.0, "output_dropout": 0.0}
WAYS = {  # stride, targets
    "every position": (CONTEXT, "all"),
    "one target a window": (1, "last"),
}


def measure(*, quick: bool) -> dict[str, Any]:
    """Return targets a CPU second and bits per byte after equal CPU time."""
    if not TOKENS.exists():
        raise InputError(f"{TOKENS}: not there; `dvc repro encode_corpus@{TOKENS.name}` makes it")
    trainers = {name: trainer(*way) for name, way in WAYS.items()}
    took = interleave(
        {name: each.take_step for name, each in trainers.items()}, rounds=2 if quick else 9
    )
    budget = 3.0 if quick else 120.0
    found = {}
    for name, (_, targets) in WAYS.items():
        a_step = BATCH * (CONTEXT if targets == "all" else 1)
        found[name] = rates(took[name], a_step) | learnt(trainer(*WAYS[name]), budget)
    return {"variants": found, "cpu_seconds": budget}


def trainer(stride: int, targets: str) -> Trainer:
    """Return the run's trainer, at its first step."""
    meta = read_meta(TOKENS)
    training = {
        "seed": 42, "context_length": CONTEXT, "stride": stride, "targets": targets,
        "batch_size": BATCH, "epochs": 1.0, "schedule_epochs": 1.0, "patience": None,
        "evaluations": 1, "optimizer": "adam", "unigram_bias": False,
        "bigram_start": None, "teacher_share": 0.0, "learning_rate": 2e-3,
        "muon_learning_rate": 0.02, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-7,
        "weight_decay": 0.0, "decay_scope": "all", "schedule": "constant", "warmup_steps": 0,
        "decay_share": 0.4, "grad_clip": 1.0, "clip_mode": "per_variable",
        "label_smoothing": 0.0, "fallback_penalty": 0.0,
    }  # fmt: skip
    compute = decide(ComputeParams(device="cpu", threads=1, compile=False))
    seed_everything(42)
    model = build_model(
        "rnn",
        parse_architecture("rnn", SHAPE, "benchmarks"),
        vocab_size=meta.vocab_size,
        context_length=CONTEXT,
    )
    return Trainer(
        model,
        parse(training, TrainingParams, "benchmarks"),
        train_ids=read_ids(TOKENS, "train"),
        val_ids=read_ids(TOKENS, "val"),
        val_meta=meta.splits["val"],
        compute=compute,
    )


def learnt(run: Trainer, budget: float) -> dict[str, float]:
    """Train for ``budget`` CPU seconds and return bits per byte on val."""
    begun = time.process_time()
    while time.process_time() - begun < budget:
        run.take_step()
    run.evaluate()
    return {"val_bits_per_byte": run.state.curve[-1]["val_bits_per_byte"], "steps": run.state.step}
