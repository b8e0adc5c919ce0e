"""One decision for every stage that computes: device, precision, threads, compilation.

A dep of all of them, never plumbing: it changes weights and metrics. bf16 is only used on CUDA. On
a CPU without bf16 units a bf16 matrix product is over 100 times slower than a float32 one.
"""

import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch

from cordel.runtime.errors import EnvironmentProblem
from cordel.runtime.params import require


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeParams:
    """The section ``compute`` of params.yaml."""

    device: Literal["auto", "cpu", "cuda"]
    threads: int  # on the CPU; 1 gives the same bytes whatever the number of cores
    compile: bool  # on CUDA; the first step then takes a minute

    def __post_init__(self) -> None:
        """Check the range."""
        require(self.threads > 0, f"threads is {self.threads}, expected at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """What was decided; goes into the ledger."""

    device: str
    device_name: str
    dtype: str  # of matrix products
    threads: int
    compile: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the model runs."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)

    def record(self) -> dict[str, Any]:
        """Return the decision as plain values."""
        return {"compute": asdict(self)}

    def gpu_peak_memory_mib(self) -> float | None:
        """Return the most memory that tensors took on the GPU, or None without one."""
        if self.device != "cuda":
            return None
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def decide(params: ComputeParams) -> Compute:
    """Fix the device, precision and threads of this process.

    Raises:
        EnvironmentProblem: CUDA is asked for and there is none.
    """
    cuda = torch.cuda.is_available()
    if params.device == "cuda" and not cuda:
        raise EnvironmentProblem(
            "compute.device is cuda, but torch finds no CUDA device; use auto or cpu"
        )
    device = "cuda" if cuda and params.device != "cpu" else "cpu"
    torch.set_num_threads(params.threads)
    bf16 = device == "cuda" and torch.cuda.is_bf16_supported()
    return Compute(
        device=device,
        device_name=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        dtype="bfloat16" if bf16 else "float32",
        threads=params.threads,
        compile=params.compile and device == "cuda",
    )


def seed_everything(seed: int) -> None:
    """Seed every random generator. The only caller of ``manual_seed`` in the project."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
