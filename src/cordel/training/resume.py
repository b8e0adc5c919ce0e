"""Checkpoints of a run in progress, kept outside DVC's outs so that DVC cannot delete them.

``.ckpt/train_lm/<run>/<fingerprint>/`` is keyed by everything that determines the weights. A state
is written under another name and renamed, so a file that is there is whole.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from cordel.runtime.errors import EnvironmentProblem

KEEP = 2  # fingerprints of one run: the current one and the one before


def fingerprint(*parts: object, files: list[Path]) -> str:
    """Return 16 hex digits over the parts and the bytes of the files, in order."""
    digest = sha256(repr(parts).encode())
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:16]


@contextmanager
def checkpoint_folder(stage: str, item: str, key: str) -> Iterator[Path]:
    """Give the locked folder of one run; ``DVC_ROOT`` is the main repository also in experiments.

    Raises:
        EnvironmentProblem: Another process is training the same run.
    """
    base = Path(os.environ.get("DVC_ROOT") or ".") / ".ckpt" / stage / item
    folder = base / key
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentProblem(
                f"another process is already training {item} (it holds {folder}/lock); wait for it"
            ) from None
        os.utime(folder)
        others = sorted(base.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)[KEEP:]
        for other in others:
            _remove_unless_in_use(other)
        yield folder


def _remove_unless_in_use(folder: Path) -> None:
    """Delete an old folder; one in which a parallel experiment trains is locked and stays."""
    with suppress(OSError), (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` durably: complete or not at all.

    Raises:
        EnvironmentProblem: It cannot be written; the state before is still there.
    """
    partial = folder / "state.partial"
    try:
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(folder / "state.pt")
    except RuntimeError as error:  # how torch reports a full disk
        message = " ".join(str(error).split())
        raise EnvironmentProblem(
            f"{partial}: cannot be written ({message}); free some disk space and run again"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def load_state(folder: Path) -> dict[str, Any] | None:
    """Return the last state, or None; a file that cannot be read counts as none."""
    path = folder / "state.pt"
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001  (a damaged file raises whatever its bytes lead to)
        path.unlink()
        return None
