"""The arithmetic peak, GPU energy from a fake NVML, and the ancestors in a fake /proc."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cordel.runtime import hardware
from cordel.runtime.errors import EnvironmentProblem
from cordel.runtime.hardware import (
    REPRO_STARTED_AT,
    EnergyMeter,
    gpu_name,
    matmul_peak,
    started_by_dvc_at,
)

# --- peak -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_peak_is_the_arithmetic_of_a_product_in_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch  # noqa: PLC0415  (two seconds)

    def half_a_second(work: Callable[[], None]) -> float:
        work()
        return 0.5

    with torch.profiler.profile(with_flops=True) as profile:
        monkeypatch.setattr(hardware, "_best_seconds", half_a_second)
        peak = matmul_peak("cpu", "float32")
    products = [event.flops for event in profile.events() or [] if event.name == "aten::mm"]
    assert len(products) == 2  # one to warm up, one that is timed
    assert peak == products[0] / 0.5 > 0


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_measuring_the_peak_moves_no_random_generator() -> None:
    import torch  # noqa: PLC0415

    before = torch.get_rng_state()
    matmul_peak("cpu", "float32")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_peak_without_the_device_is_an_environment_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch  # noqa: PLC0415

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match="finds no CUDA device; use cpu"):
        matmul_peak("cuda", "bfloat16")


@pytest.mark.gpu
def test_the_peak_of_a_gpu_is_that_of_its_matrix_units() -> None:
    # Every GPU with bf16 units does over 20 TFLOP/s; none does 10 PFLOP/s.
    assert 2e13 < matmul_peak("cuda", "bfloat16") < 1e16


def test_the_best_of_several_times_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Clock at: end; then each round asks when it starts and when it ended.
    clock = iter([0.0, 0.0, 0.09, 0.1, 0.13, 0.15, 0.22, 0.3])
    monkeypatch.setattr(hardware, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert hardware._best_seconds(lambda: None) == pytest.approx(0.03)


# --- energy ---------------------------------------------------------------------------------------


class FakeNvml:
    """NVML with one counter; ``readings`` are millijoules, or an error to raise."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self, *readings: int | Exception) -> None:
        """Answer one reading a question."""
        self.readings, self.asked, self.open = iter(readings), [], 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        self.asked.append(index)
        return f"gpu {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self.asked.append(uuid)
        return uuid

    def nvmlDeviceGetName(self, _: str) -> bytes:  # noqa: N802
        return b"NVIDIA H200"

    def nvmlDeviceGetTotalEnergyConsumption(self, _: str) -> int:  # noqa: N802
        reading = next(self.readings)
        if isinstance(reading, Exception):
            raise reading
        return reading


def with_nvml(monkeypatch: pytest.MonkeyPatch, *readings: Any) -> FakeNvml:
    """Put a fake in the place of pynvml."""
    fake = FakeNvml(*readings)
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


def measured() -> float | None:
    """Return what a meter around nothing says."""
    with EnergyMeter() as meter:
        assert meter.joules is None
    return meter.joules


def test_energy_is_the_difference_of_the_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = with_nvml(monkeypatch, 1_000_000, 1_002_500)
    assert measured() == 2.5
    assert fake.open == 0


@pytest.mark.parametrize(
    "readings",
    [
        (5, 5),  # too short a block for the counter
        (5, 3),  # the driver was loaded again
        (FakeNvml.NVMLError("not supported"), 5),
        (5, FakeNvml.NVMLError("lost")),
    ],
)
def test_energy_that_was_not_measured_is_none_not_zero(
    monkeypatch: pytest.MonkeyPatch, readings: tuple[Any, Any]
) -> None:
    fake = with_nvml(monkeypatch, *readings)
    assert measured() is None
    assert fake.open == 0


def test_without_nvml_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    assert measured() is None
    assert gpu_name() is None


def test_an_error_in_the_block_goes_on_and_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nvml(monkeypatch, 0, 7000)
    meter = EnergyMeter()
    with pytest.raises(ZeroDivisionError), meter:
        raise ZeroDivisionError
    assert meter.joules == 7


def test_the_name_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nvml(monkeypatch)
    assert gpu_name() == "NVIDIA H200"


@pytest.mark.parametrize(
    ("visible", "asked"), [("", 0), ("3,1", 3), ("GPU-ab12", "GPU-ab12"), ("none", 0)]
)
def test_the_gpu_is_the_first_that_cuda_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str, asked: int | str
) -> None:
    fake = with_nvml(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu_name()
    assert fake.asked == [asked]


# --- DVC ------------------------------------------------------------------------------------------

BOOT, TICKS = 1_700_000_000, os.sysconf("SC_CLK_TCK")


def add_process(proc: Path, pid: int, parent: int, words: list[str], started: float = 0) -> None:
    """Write a process as Linux shows it, ``started`` seconds after boot."""
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    # pid (command) state ppid ..., starttime in the 22nd place; the command holds what it likes.
    fields = ["S", str(parent), *["0"] * 17, str(round(started * TICKS)), "0"]
    (folder / "stat").write_text(f"{pid} (a) b (c) {' '.join(fields)}\n")
    (proc / "stat").write_text(f"cpu  1 2 3\nbtime {BOOT}\nprocesses 9\n")


@pytest.mark.parametrize(
    "words",
    [
        ["/usr/bin/dvc", "repro"],
        ["/venv/bin/python3.11", "/venv/bin/dvc", "repro", "-q"],
        ["python", "-m", "dvc", "repro"],
    ],
)
def test_the_ancestor_dvc_tells_when_it_began(tmp_path: Path, words: list[str]) -> None:
    add_process(tmp_path, 1, 0, ["init"])
    add_process(tmp_path, 7, 1, words, started=12.5)
    add_process(tmp_path, 8, 7, ["/bin/sh", "-c", "python -m stages.account_costs"], started=20)
    add_process(tmp_path, 9, 8, ["python", "-m", "stages.account_costs"], started=21)
    assert started_by_dvc_at(pid=9, proc=tmp_path) == BOOT + 12.5


@pytest.mark.parametrize(
    "words",
    [
        ["sh", "-c", "dvc repro"],
        ["vim", "/venv/bin/dvc"],
        ["python", "repro.py", "dvc"],
        ["/usr/bin/dvclive"],
        [],  # a thread of the kernel
    ],
)
def test_what_only_speaks_of_dvc_is_not_dvc(tmp_path: Path, words: list[str]) -> None:
    add_process(tmp_path, 1, 0, words)
    add_process(tmp_path, 9, 1, ["python", "-m", "stages.account_costs"])
    assert started_by_dvc_at(pid=9, proc=tmp_path) is None


def test_the_nearest_dvc_counts(tmp_path: Path) -> None:
    add_process(tmp_path, 5, 0, ["dvc", "exp", "run"], started=1)
    add_process(tmp_path, 7, 5, ["dvc", "repro"], started=3)
    add_process(tmp_path, 9, 7, ["python"], started=4)
    assert started_by_dvc_at(pid=9, proc=tmp_path) == BOOT + 3


def test_without_proc_nothing_is_known(tmp_path: Path) -> None:
    assert started_by_dvc_at(pid=9, proc=tmp_path / "none") is None


def test_many_processes_of_dvc_can_be_one_repro(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The one that `cordel repro` started for account_costs is younger than all other stages.
    monkeypatch.setenv(REPRO_STARTED_AT, "1795000000.5")
    assert started_by_dvc_at(pid=9, proc=tmp_path / "none") == 1795000000.5


def test_a_real_process_named_dvc_is_found_with_its_time(tmp_path: Path) -> None:
    question = "from cordel.runtime.hardware import started_by_dvc_at as f; print(f())"
    dvc = tmp_path / "dvc"
    dvc.write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {question!r}])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    before = time.time()
    done = subprocess.run(
        [sys.executable, str(dvc)], capture_output=True, text=True, check=True, env=environment
    )
    assert before - 2 <= float(done.stdout) <= time.time()
