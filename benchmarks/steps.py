"""One training step of v6's and v7's shapes: cordel's loop against its peers, on equal ids.

A unit is one optimiser step: forward, backward, clipping, update. Every peer has AdamW, fused, and
as many layers of the same width; where the block differs (two or three feed-forward matrices), the
hidden width makes the parameters equal.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Seconds, Work, interleave, rates, summary
from benchmarks.peers.gpt import GPT
from cordel.compute import Compute, ComputeParams, decide, seed_everything
from cordel.models import build_model, count_parameters, parse_architecture
from cordel.runtime.params import parse
from cordel.sizing import sizes
from cordel.tokens import SplitMeta
from cordel.training.loop import Trainer
from cordel.training.params import TrainingParams

LITGPT = "CORDEL_LITGPT"  # a Python that has litgpt, which needs an older hub client than ours
PEAK_SIZE = 1024
LEARNING_RATE, BETAS, DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A shape, at the sizes of the profile ``ptbr``."""

    name: str
    vocab_size: int
    d_model: int
    n_layer: int
    n_head: int
    d_ff: int  # with three feed-forward matrices, as a Llama has
    context: int
    batch: int
    tied: bool

    @property
    def tokens(self) -> int:
        """Tokens a step."""
        return self.batch * self.context

    @property
    def d_ff_of_two(self) -> int:
        """The hidden width that gives two feed-forward matrices as many parameters."""
        return self.d_ff * 3 // 2


CASES = (
    Case(
        name="v6",
        vocab_size=16_000,
        d_model=192,
        n_layer=3,
        n_head=6,
        d_ff=512,
        context=256,
        batch=4,
        tied=True,
    ),
    Case(
        name="v7",
        vocab_size=16_384,
        d_model=128,
        n_layer=2,
        n_head=4,
        d_ff=344,
        context=512,
        batch=2,
        tied=False,
    ),
)


def measure(*, quick: bool) -> dict[str, Any]:
    """Return tokens a CPU second of every variant of every case, and its share of the peak."""
    decide(ComputeParams(device="cpu", threads=1, compile=False))
    return {case.name: _measured(case, quick=quick) for case in CASES}


def _measured(case: Case, *, quick: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, case.vocab_size, 64 * case.tokens, dtype=np.uint16)
    with ExitStack() as stack:
        variants, parameters = _variants(case, ids, stack, quick=quick)
        took = interleave(variants, rounds=2 if quick else 9)
    flops = training_flops(case)
    peak = summary([2 * PEAK_SIZE**3 / each.cpu for each in took.pop("peak")])
    found = {}
    for name, seconds in took.items():
        found[name] = rates(seconds, case.tokens) | {"parameters": parameters[name]}
        found[name]["utilisation"] = summary([flops / s.cpu / peak["median"] for s in seconds])
    return {"variants": found, "peak_flops": peak, "tokens_a_step": case.tokens, "flops": flops}


def training_flops(case: Case) -> int:
    """Return the FLOPs of one step: three times the forward pass, attention included."""
    shape = {"d_model": case.d_model, "n_layer": case.n_layer, "n_head": case.n_head}
    shape |= {"d_ff": case.d_ff, "tied": case.tied}
    found = sizes("llama", shape, vocab_size=case.vocab_size, context_length=case.context)
    # Causal attention reads half of its context, in scores and in values.
    attention = 2 * case.n_layer * case.context * case.d_model
    return 3 * case.tokens * (2 * (found.hidden + found.head) + attention)


def _variants(
    case: Case, ids: np.ndarray, stack: ExitStack, *, quick: bool
) -> tuple[dict[str, Work], dict[str, int]]:
    factor = torch.arange(PEAK_SIZE**2, dtype=torch.float32).sin().view(PEAK_SIZE, PEAK_SIZE)
    variants: dict[str, Work] = {"peak": lambda: factor @ factor}
    parameters: dict[str, int] = {}

    def add(name: str, model: nn.Module, work: Work) -> None:
        variants[name], parameters[name] = work, count_parameters(model)

    for name, architecture, optimizer in (
        ("cordel gpt", "gpt", "adamw"),
        ("cordel llama", "llama", "adamw"),
        ("cordel llama, Muon", "llama", "muon"),
    ):
        trainer = ours(case, ids, architecture, optimizer)
        add(name, trainer.model, trainer.take_step)
    gpt = GPT(
        vocab_size=case.vocab_size,
        width=case.d_model,
        layers=case.n_layer,
        heads=case.n_head,
        hidden=case.d_ff_of_two,
        context=case.context,
        tied=case.tied,
    )
    add("nanoGPT style", gpt, loop(gpt, gpt, ids, case))
    llama = hugging_face(case)
    add("Hugging Face Llama", llama, loop(llama, lambda x, y: _loss(llama, x, y), ids, case))
    trained = hugging_face(case)
    add("Hugging Face Trainer", trained, hugging_face_trainer(trained, ids, case, quick=quick))
    if os.environ.get(LITGPT):
        peer = stack.enter_context(Litgpt(os.environ[LITGPT], case))
        variants["litgpt"], parameters["litgpt"] = peer.step, peer.parameters
    return variants, parameters


def ours(
    case: Case,
    ids: np.ndarray,
    architecture: str,
    optimizer: str,
    compute: Compute | None = None,
) -> Trainer:
    """Return cordel's own trainer: what ``train_lm`` runs, evaluations left out."""
    shape = {"d_model": case.d_model, "n_layer": case.n_layer, "n_head": case.n_head}
    if architecture == "gpt":
        shape |= {"d_ff": case.d_ff_of_two, "dropout": 0.0}
    else:
        shape |= {"d_ff": case.d_ff, "tied": case.tied, "rope_theta": 1e4}
        shape |= {"norm_epsilon": 1e-5, "init_sd": 0.02}
    training = {
        "seed": 0,
        "context_length": case.context,
        "stride": case.context,
        "targets": "all",
        "batch_size": case.batch,
        "epochs": 1.0,
        "schedule_epochs": 1.0,
        "patience": None,
        "evaluations": 1,
        "optimizer": optimizer,
        "unigram_bias": False,
        "bigram_start": None,
        "teacher_share": 0.0,
        "learning_rate": LEARNING_RATE,
        "muon_learning_rate": 0.02,
        "beta1": BETAS[0],
        "beta2": BETAS[1],
        "epsilon": 1e-8,
        "weight_decay": DECAY,
        "decay_scope": "matrices",
        "schedule": "constant",
        "warmup_steps": 0,
        "decay_share": 0.4,
        "grad_clip": CLIP,
        "clip_mode": "global",
        "label_smoothing": 0.0,
        "fallback_penalty": 0.0,
    }
    seed_everything(0)
    model = build_model(
        architecture,
        parse_architecture(architecture, shape, "benchmarks"),
        vocab_size=case.vocab_size,
        context_length=case.context,
    )
    return Trainer(
        model,
        parse(training, TrainingParams, "benchmarks"),
        train_ids=ids,
        val_ids=ids[: case.tokens + 1],
        val_meta=SplitMeta(documents=1, tokens=case.tokens, bytes=case.tokens, unknown_bytes=0),
        compute=compute or decide(ComputeParams(device="cpu", threads=1, compile=False)),
    )


def loop(
    model: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], ids: np.ndarray, case: Case
) -> Work:
    """Return a plain loop's step for a peer's model."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=DECAY, fused=True
    )
    rng = np.random.default_rng(0)

    def step() -> None:
        starts = rng.integers(0, len(ids) - case.context - 1, case.batch)[:, None]
        rows = torch.from_numpy(ids[starts + np.arange(case.context + 1)].astype(np.int64))
        loss_of(rows[:, :-1], rows[:, 1:]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def hugging_face(case: Case) -> Any:
    """Return transformers' Llama of this shape."""
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415  (4.8 CPU seconds)

    config = LlamaConfig(
        vocab_size=case.vocab_size,
        hidden_size=case.d_model,
        intermediate_size=case.d_ff,
        num_hidden_layers=case.n_layer,
        num_attention_heads=case.n_head,
        num_key_value_heads=case.n_head,
        max_position_embeddings=case.context,
        tie_word_embeddings=case.tied,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def _loss(model: Any, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    logits_BTV = model(input_ids=ids_BT).logits
    return nn.functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def hugging_face_trainer(model: Any, ids: np.ndarray, case: Case, *, quick: bool) -> Work:
    """Return a unit that trains some steps with transformers' Trainer and gives a step's mean."""
    from tempfile import mkdtemp  # noqa: PLC0415

    from transformers import Trainer as HfTrainer  # noqa: PLC0415  (6.5 CPU seconds)
    from transformers import TrainerCallback, TrainingArguments  # noqa: PLC0415

    steps = 2 if quick else 3
    rows = ids[: len(ids) // case.context * case.context].reshape(-1, case.context).astype(np.int64)
    data = [{"input_ids": row, "labels": row} for row in torch.from_numpy(rows)]

    class Clock(TrainerCallback):
        """Looks at the clocks when a step begins and ends: Trainer's own start does not count."""

        def __init__(self) -> None:
            self.ends: list[Seconds] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(Seconds(time.process_time(), time.perf_counter()))

    def some_steps() -> Seconds:
        clock = Clock()
        arguments = TrainingArguments(
            output_dir=mkdtemp(),
            per_device_train_batch_size=case.batch,
            max_steps=steps + 1,
            learning_rate=LEARNING_RATE,
            weight_decay=DECAY,
            max_grad_norm=CLIP,
            use_cpu=True,
            optim="adamw_torch_fused",
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        HfTrainer(model, arguments, train_dataset=data, callbacks=[clock]).train()  # pyright: ignore
        first, last = clock.ends[0], clock.ends[-1]
        return Seconds((last.cpu - first.cpu) / steps, (last.wall - first.wall) / steps)

    return some_steps


class Litgpt:
    """litgpt in a Python of its own; it takes a step for each line that it reads."""

    def __init__(self, python: str, case: Case) -> None:
        """Start it."""
        script = Path(__file__).parent / "peers/litgpt_step.py"
        shape = {name: getattr(case, name) for name in Case.__slots__}
        self._process: Any = subprocess.Popen(  # noqa: S603  (the Python that the user names)
            [python, str(script), json.dumps(shape | {"d_ff_of_two": case.d_ff_of_two})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.parameters = self._answer()["parameters"]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:  # what it died of stands on stderr
            raise RuntimeError(f"litgpt ended with {self._process.wait()}")
        return json.loads(line)

    def step(self) -> Seconds:
        """Let it take a step."""
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return Seconds(**self._answer())

    def __enter__(self) -> "Litgpt":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
