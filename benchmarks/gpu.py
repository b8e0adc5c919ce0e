"""On a CUDA device: training at the thesis' sizes, QLoRA and generation at the size of an 8B model.

``make bench SECTIONS=gpu`` fills the table; without a device the section is left out of `make
bench`, and its quick form runs tiny shapes on the CPU, so that it does not rot. Wall time, device
synchronised; weights are random, which changes no time. The 8B shape is written to a temporary
folder first (16 GB) and read from there as any base is.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.sft import random_base
from benchmarks.steps import Case, ours, training_flops
from cordel.adaptation.generation import Request, generate_batch
from cordel.adaptation.packing import collate, document_pieces, pack
from cordel.adaptation.qlora import supervised_nats
from cordel.compute import Compute, ComputeParams, decide
from cordel.estimate import calibrate
from cordel.runtime.errors import EnvironmentProblem

NEW_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What is measured."""

    cases: tuple[Case, ...]
    base: dict[str, int]
    blocks: tuple[tuple[int, int], ...]  # of QLoRA: blocks at once, ids of each
    prompts: tuple[int, ...]  # at once
    prompt: int  # ids
    steps: int


# Thesis section 3.2 for v6 (12,134,820 parameters there); v7 as the profile `thesis` has it.
V6 = Case(
    name="v6", vocab_size=14_500, d_model=320, n_layer=6, n_head=8, d_ff=853, context=256,
    batch=64, tied=True,
)  # fmt: skip
V7 = Case(
    name="v7", vocab_size=16_384, d_model=512, n_layer=8, n_head=8, d_ff=1376, context=512,
    batch=64, tied=False,
)  # fmt: skip
LLAMA_8B = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
}
FULL = Sizes(
    cases=(V6, V7),
    base=LLAMA_8B,
    blocks=((1, 512), (8, 512), (1, 2048), (2, 2048), (4, 2048), (8, 2048)),
    prompts=(1, 4, 16, 64),
    prompt=256,
    steps=20,
)
TINY = Case(
    name="tiny", vocab_size=256, d_model=16, n_layer=2, n_head=2, d_ff=32, context=16, batch=2,
    tied=False,
)  # fmt: skip
TINY_BASE = {"vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2}
TINY_BASE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
QUICK = Sizes(
    cases=(TINY,), base=TINY_BASE, blocks=((1, 32), (2, 32)), prompts=(1, 2), prompt=8, steps=2
)


def measure(*, quick: bool) -> dict[str, Any]:
    """Return tokens a second and peak memory of each.

    Raises:
        EnvironmentProblem: There is no CUDA device, and the form is not the quick one.
    """
    if not (quick or torch.cuda.is_available()):
        raise EnvironmentProblem("no CUDA device here; `--quick` runs the section's shape on a CPU")
    sizes = QUICK if quick else FULL
    eager = decide(ComputeParams(device="cpu" if quick else "cuda", threads=1, compile=False))
    machine = calibrate(eager.device)
    found: dict[str, Any] = {"device": machine.device_name, "peak_flops": machine.matmul_peak}
    found["training"] = [
        {"case": case.name, "compile": compiled} | trained(case, compiled, sizes.steps, eager)
        for case in sizes.cases
        for compiled in ((False,) if quick else (False, True))
    ]
    for row in found["training"]:
        row["utilisation"] = row["flops_per_second"] / machine.matmul_peak
    model = random_base(eager, **sizes.base)
    found["qlora"] = [adapted(model, *shape, sizes, eager) for shape in sizes.blocks]
    found["answers"] = [answered(model, size, sizes, eager) for size in sizes.prompts]
    return found


def clocked(work: Callable[[], object], times: int, compute: Compute) -> tuple[float, float | None]:
    """Return (seconds of one unit, peak memory in MiB), the first unit left out."""
    work()
    if compute.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    for _ in range(times):
        work()
    if compute.device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / times, compute.gpu_peak_memory_mib()


def trained(case: Case, compiled: bool, steps: int, eager: Compute) -> dict[str, Any]:
    """Return what a run from scratch reaches."""
    compute = decide(ComputeParams(device=eager.device, threads=1, compile=compiled))  # pyright: ignore[reportArgumentType]
    ids = np.random.default_rng(0).integers(0, case.vocab_size, 64 * case.tokens, dtype=np.uint16)
    architecture, optimizer = ("gpt", "adamw") if case.name == "v6" else ("llama", "muon")
    trainer = ours(case, ids, architecture, optimizer, compute)
    seconds, memory = clocked(trainer.take_step, steps, compute)
    return {
        "tokens_per_second": case.tokens / seconds,
        "flops_per_second": training_flops(case) / seconds,
        "peak_memory_mib": memory,
    }


def adapted(model: Any, blocks: int, length: int, sizes: Sizes, compute: Compute) -> dict[str, Any]:
    """Return what a step of QLoRA with gradient checkpointing reaches, or that it did not fit."""
    rng = np.random.default_rng(0)
    pieces = [
        piece
        for _ in range(blocks)
        for piece in document_pieces(
            rng.integers(1, sizes.base["vocab_size"], length + 1).tolist(), length
        )
    ]
    batch = {k: v.to(compute.device) for k, v in collate(pack(pieces, length), pad=0).items()}
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model.train()

    def step() -> None:
        with compute.autocast():
            nats = supervised_nats(model, batch)
        nats.backward()
        model.zero_grad(set_to_none=True)

    row: dict[str, Any] = {"blocks": blocks, "ids": length}
    try:
        seconds, memory = clocked(step, max(1, sizes.steps // 4), compute)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return row | {"tokens_per_second": None, "peak_memory_mib": None}
    finally:
        model.activation_checkpointing_disable()
    return row | {"tokens_per_second": blocks * length / seconds, "peak_memory_mib": memory}


def answered(model: Any, size: int, sizes: Sizes, compute: Compute) -> dict[str, Any]:
    """Return how many ids a second are generated with ``size`` prompts at once."""
    rng = np.random.default_rng(0)
    model.eval()
    requests: Sequence[Request] = [
        Request(tuple(rng.integers(1, sizes.base["vocab_size"], sizes.prompt).tolist()), NEW_TOKENS)
        for _ in range(size)
    ]

    def generate() -> None:
        generate_batch(model, requests, stop=(), pad=0, compute=compute)

    seconds, memory = clocked(generate, 1, compute)
    return {
        "prompts": size,
        "new_tokens_per_second": size * NEW_TOKENS / seconds,
        "peak_memory_mib": memory,
    }
