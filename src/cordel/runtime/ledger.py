"""What a stage cost, one record per attempt, in ``metrics/ledger/<stage>/<item>.json``.

A ledger is a list of attempts: an interrupted run that was resumed has several, and what it cost is
their sum. Being a list also keeps it out of ``dvc metrics show``, which prints mappings only.
"""

import logging
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, write_json
from cordel.runtime.hardware import EnergyMeter, matmul_peak

log = logging.getLogger("ledger")

SCHEMA = 2
PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "dvc",
    "numpy",
    "peft",
    "pyarrow",
    "sentencepiece",
    "tokenizers",
    "torch",
    "transformers",
)
# What a run is made from: were its own metrics among them, every stage after the first were dirty.
MADE_FROM = ("dvc.yaml", "params.yaml", "src", "stages", "data/sample")
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
STATUS = Path("/proc/self/status")
ESTIMATES = Path(".ckpt/estimates.json")  # of `cordel estimate`: seconds a stage


@contextmanager
def ledger(path: Path, *, stage: str, pending: Path | None = None) -> Iterator[dict[str, Any]]:
    """Measure the block and write its record; the block adds what it knows to the yielded dict.

    Args:
        path: The ledger file, written when the block succeeds.
        stage: The stage's name with its item, such as ``train_lm@v1``.
        pending: Where the attempts so far are kept, beside the checkpoint they belong to.
    """
    attempts = _attempts(pending)
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "stage": stage,
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "completed": False,
        "device": f"{platform.processor() or platform.machine()} x {os.cpu_count()}",
    }
    started_at, cpu_started_at = time.monotonic(), _cpu_seconds()
    meter = EnergyMeter()
    try:
        with meter:
            yield record
        record["completed"] = True
    finally:
        record["seconds"] = round(time.monotonic() - started_at, 2)
        record["cpu_seconds"] = round(_cpu_seconds() - cpu_started_at, 2)
        record["peak_memory_mib"] = round(_peak_memory_kib() / 1024, 1)
        record["energy_joules"] = meter.joules
        record["estimated_seconds"] = _estimate(stage)
        if "parameters" in record:  # it trained: what could the machine have done meanwhile?
            compute = record["compute"]
            record["matmul_peak_flops"] = matmul_peak(compute["device"], compute["dtype"])
        record |= _provenance()
        attempts.append(record)
        if pending is not None:
            # Kept after the end too: whoever finds the run finished must still know what it cost.
            write_json(pending, attempts)
        if record["completed"]:
            write_json(path, attempts)


def _attempts(pending: Path | None) -> list[dict[str, Any]]:
    """Return the attempts so far; a damaged file must not stop a run from being resumed."""
    if pending is None or not pending.exists():
        return []
    try:
        return list(read_json(pending, kind=list))
    except ArtifactError as error:
        log.warning("%s: the costs of earlier attempts are lost", error)
        return []


def _estimate(stage: str) -> float | None:
    """Return what `cordel estimate` last said of this stage, or None."""
    path = Path(os.environ.get("DVC_ROOT") or ".") / ESTIMATES
    return read_json(path).get(stage) if path.exists() else None


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak_memory_kib() -> int:
    """Return what this program held at most.

    ru_maxrss outlives an exec: where it began as a fork of a larger process (``dvc repro``), that
    is what it tells.
    """
    found = PEAK.search(STATUS.read_text()) if STATUS.exists() else None
    return int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _provenance() -> dict[str, Any]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", *MADE_FROM)
    return {
        "python": sys.version.split()[0],
        "versions": found,
        "git_commit": _git("rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def _git(*words: str) -> str | None:
    """Return git's answer, or None outside a repository or without git.

    Without optional locks: a ``git status`` that is killed while it refreshes the index, or finds
    the disk full, leaves ``.git/index.lock`` behind, and the user's next ``git`` fails.
    """
    command = ["git", "--no-optional-locks", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
