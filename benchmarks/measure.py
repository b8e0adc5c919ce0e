"""Rounds of measurements, interleaved: what disturbs the machine disturbs all variants alike.

Process CPU time is what is compared; wall time stands beside it. A ratio under 1.15 is a tie unless
the ranges do not overlap.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("torch", "transformers", "peft", "trl", "tokenizers", "sentencepiece", "datatrove")
TIE = 1.15


@dataclass(frozen=True, slots=True)
class Seconds:
    """What one unit of work took."""

    cpu: float
    wall: float


Work = Callable[[], object]  # a unit; may return Seconds, if it measures itself


def timed(work: Work) -> Seconds:
    """Do a unit of work and return what it took, unless it says so itself."""
    cpu, wall = time.process_time(), time.perf_counter()
    found = work()
    if isinstance(found, Seconds):
        return found
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def interleave(
    variants: Mapping[str, Work], *, rounds: int, warm_up: int = 1
) -> dict[str, list[Seconds]]:
    """Return what each variant took in each round; every round begins with another one.

    Args:
        variants: Units of work by name.
        rounds: How many are kept.
        warm_up: How many are thrown away first.
    """
    names = list(variants)
    found: dict[str, list[Seconds]] = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            took = timed(variants[name])
            if turn >= 0:
                found[name].append(took)
    return found


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {
        "median": float(f"{statistics.median(values):.6g}"),
        "min": float(f"{min(values):.6g}"),
        "max": float(f"{max(values):.6g}"),
    }


def rates(took: Sequence[Seconds], units: float) -> dict[str, Any]:
    """Return units a CPU second and a wall second."""
    return {
        "per_cpu_second": summary([units / each.cpu for each in took]),
        "per_second": summary([units / each.wall for each in took]),
    }


def compared(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    """Return what two summaries of rates say: how many times as fast, or a tie."""
    ratio = ours["median"] / theirs["median"]
    apart = ours["min"] > theirs["max"] or theirs["min"] > ours["max"]
    return f"{ratio:.2f}" if apart or not 1 / TIE < ratio < TIE else f"{ratio:.2f} (tie)"


def spread(value: Mapping[str, float], form: str = ",.0f") -> str:
    """Return median (least–most)."""
    return f"{value['median']:{form}} ({value['min']:{form}}–{value['max']:{form}})"


def environment() -> dict[str, Any]:
    """Return what the figures belong to."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": sys.version.split()[0],
        "versions": found,
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123  (no project file)
            return (
                next(line for line in lines if line.startswith("model name")).split(":")[1].strip()
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
