"""The decision on device, precision and threads."""

import random
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from cordel.compute import ComputeParams, decide, seed_everything
from cordel.runtime.errors import EnvironmentProblem

PARAMS = ComputeParams(device="auto", threads=1, compile=True)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Leave torch with one thread again."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretend to have a GPU with bf16 units; deciding moves nothing there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Pretence 9000")
    return monkeypatch


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to have none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_without_a_gpu_everything_runs_in_float32_on_the_cpu(device: str) -> None:
    found = decide(replace(PARAMS, device=device))
    assert (found.device, found.device_name, found.dtype) == ("cpu", "cpu", "float32")
    assert not found.compile


@pytest.mark.usefixtures("no_gpu")
def test_asking_for_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(EnvironmentProblem, match=r"compute\.device is cuda.*use auto or cpu"):
        decide(replace(PARAMS, device="cuda"))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_computes_in_bfloat16_and_compiles(device: str) -> None:
    found = decide(replace(PARAMS, device=device))
    assert (found.device, found.device_name, found.dtype) == ("cuda", "Pretence 9000", "bfloat16")
    assert found.compile


@pytest.mark.usefixtures("gpu")
def test_the_cpu_can_be_asked_for_beside_a_gpu() -> None:
    found = decide(replace(PARAMS, device="cpu"))
    assert (found.device, found.dtype, found.compile) == ("cpu", "float32", False)


def test_a_gpu_without_bf16_units_computes_in_float32(gpu: pytest.MonkeyPatch) -> None:
    gpu.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert decide(PARAMS).dtype == "float32"


@pytest.mark.usefixtures("no_gpu")
def test_the_threads_are_set() -> None:
    decide(replace(PARAMS, threads=2))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("no_gpu")
def test_float32_runs_in_no_special_context_and_records_no_gpu_memory() -> None:
    found = decide(PARAMS)
    assert isinstance(found.autocast(), nullcontext)
    assert found.gpu_peak_memory_mib() is None


def test_bfloat16_runs_under_autocast() -> None:
    found = replace(decide(replace(PARAMS, device="cpu")), dtype="bfloat16")
    with found.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.usefixtures("no_gpu")
def test_the_ledger_gets_the_decision_as_plain_values() -> None:
    expected = {"device": "cpu", "device_name": "cpu", "dtype": "float32", "threads": 1}
    assert decide(PARAMS).record() == {"compute": expected | {"compile": False}}


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads is 0, expected at least 1"):
        replace(PARAMS, threads=0)


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: torch.rand(1).item()])
def test_the_same_seed_gives_the_same_numbers(draw) -> None:
    drawn = []
    for seed in (7, 7, 8):
        seed_everything(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[1] != drawn[2]
