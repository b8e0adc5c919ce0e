"""What this machine can do and uses: arithmetic peak, GPU energy, and when DVC started us.

Plumbing: it measures, and what it measures goes into ledgers and estimates, never into results.
"""

import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from cordel.runtime.errors import EnvironmentProblem

T = TypeVar("T")
PEAK_SECONDS = 0.2  # how long products are timed; the best one counts
CPU_SIZE, CUDA_SIZE = 1024, 8192  # rows of the square matrices: large enough to reach the peak
SLOW_SIZE = 256  # on a CPU in another type than float32, which may be 100 times slower
PROC = Path("/proc")
REPRO_STARTED_AT = "CORDEL_REPRO_STARTED_AT"  # set where many processes of DVC are one `dvc repro`


def matmul_peak(device: str, dtype: str) -> float:
    """Return the FLOP/s of the best of several square matrix products, 2 n^3 FLOPs each.

    On CUDA it takes 0.3 GB, which counts in torch's peak memory: measure before resetting that.

    Args:
        device: ``cpu`` or ``cuda``. On the CPU with as many threads as torch is set to.
        dtype: torch's name of the type, such as ``float32`` or ``bfloat16``.

    Raises:
        EnvironmentProblem: There is no such device.
    """
    import torch  # noqa: PLC0415  (1.3 seconds, which text stages must not pay)

    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentProblem("device is cuda, but torch finds no CUDA device; use cpu")
    size = CUDA_SIZE if device == "cuda" else CPU_SIZE if dtype == "float32" else SLOW_SIZE
    # No random numbers: a generator that others use would move on. No ones: they cost less power.
    values = torch.arange(size * size, device=device, dtype=torch.float32).sin().view(size, size)
    factor = values.to(getattr(torch, dtype))
    out = torch.empty_like(factor)

    def product() -> None:
        torch.mm(factor, factor, out=out)
        if device == "cuda":
            torch.cuda.synchronize()

    product()  # starts threads and libraries, which is not arithmetic
    return 2 * size**3 / _best_seconds(product)


def _best_seconds(work: Callable[[], None]) -> float:
    """Return the shortest time of ``work``, repeated for ``PEAK_SECONDS``."""
    best, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while (started_at := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - started_at)
    return best


def gpu_name() -> str | None:
    """Return NVML's name of the first visible GPU, or None where NVML does not answer."""
    name = _ask_nvml(lambda nvml, gpu: nvml.nvmlDeviceGetName(gpu))
    return name.decode() if isinstance(name, bytes) else name


class EnergyMeter:
    """The energy that the first visible GPU takes while the block runs.

    It is that of the whole GPU, other processes' included. ``joules`` is None until the block ends,
    and stays so where nothing measured it (no GPU, no NVML, no counter): unknown is not zero.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.joules: float | None = None
        self._before: int | None = None

    def __enter__(self) -> Self:
        """Read the counter."""
        self._before = _energy_millijoules()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Read it again; an error in the block goes on."""
        after = _energy_millijoules()
        # Equal readings mean that the counter has not ticked yet; a lower one, that it was reset.
        if self._before is not None and after is not None and after > self._before:
            self.joules = (after - self._before) / 1000


def _energy_millijoules() -> int | None:
    """Return the energy counter since the driver was loaded (Volta and later)."""
    return _ask_nvml(lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu))


def _ask_nvml(question: Callable[[Any, Any], T]) -> T | None:
    """Return the answer about the first visible GPU, or None if there is none to be had."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        try:
            return question(nvml, _first_visible(nvml))
        finally:
            nvml.nvmlShutdown()
    except (nvml.NVMLError, OSError, AttributeError):
        return None


def _first_visible(nvml: Any) -> Any:
    """Return the handle of CUDA's device 0, which need not be NVML's."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if visible.startswith(("GPU-", "MIG-")):
        return nvml.nvmlDeviceGetHandleByUUID(visible)
    return nvml.nvmlDeviceGetHandleByIndex(int(visible) if visible.isdigit() else 0)


def started_by_dvc_at(*, pid: int | None = None, proc: Path = PROC) -> float | None:
    """Return when the nearest ancestor process ``dvc`` was started, in seconds since 1970.

    A ledger record that is older was restored, not run, by the current ``dvc repro``. Of a ``cordel
    repro``, which starts many of them, it is when that was. Up to a second early; None if no
    ancestor is DVC, or not on Linux.

    Args:
        pid: Whose ancestors, itself included; this process' by default.
        proc: Linux' table of processes.
    """
    if REPRO_STARTED_AT in os.environ:
        return float(os.environ[REPRO_STARTED_AT])
    current = os.getpid() if pid is None else pid
    try:
        while current > 0:
            if _is_dvc((proc / str(current) / "cmdline").read_bytes()):
                return _started_at(current, proc)
            current = int(_stat(current, proc)[1])
    except (OSError, ValueError, IndexError):
        return None
    return None


def _is_dvc(command_line: bytes) -> bool:
    """Tell ``dvc``, ``python .../dvc`` and ``python -m dvc`` from the rest, shells included."""
    words = command_line.decode(errors="replace").split("\0")
    if Path(words[0]).name.startswith("python"):
        words = [word for word in words[1:] if word != "-m"]
    return bool(words) and Path(words[0]).name == "dvc"


def _stat(pid: int, proc: Path) -> list[str]:
    """Return the fields from ``state`` on; the command before them may hold blanks and brackets."""
    return (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _started_at(pid: int, proc: Path) -> float:
    """Return boot time plus ``starttime``, field 22 of proc_pid_stat(5), in clock ticks."""
    lines = (proc / "stat").read_text().splitlines()
    boot = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
    return boot + int(_stat(pid, proc)[19]) / os.sysconf("SC_CLK_TCK")
