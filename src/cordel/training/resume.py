"""The state of a run in progress, in its folder of ``runtime/unfinished.py``.

A state is written under another name and renamed, so a file that is there is whole; the one before
is kept, for whatever happens to a file afterwards.
"""

import logging
import os
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch

from cordel.runtime.errors import EnvironmentProblem

log = logging.getLogger("train_lm")

STATE, PREVIOUS = "state.pt", "previous.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` durably: complete or not at all. The state before becomes the previous one.

    Raises:
        EnvironmentProblem: It cannot be written; the state before is still there.
    """
    partial, path = folder / "state.partial", folder / STATE
    try:
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            path.replace(folder / PREVIOUS)
        partial.replace(path)
    except RuntimeError as error:  # how torch reports a full disk
        message = " ".join(str(error).split())
        raise EnvironmentProblem(
            f"{partial}: cannot be written ({message}); free some disk space and run again"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def load_state(folder: Path) -> dict[str, Any] | None:
    """Return the last state that can be read, or None; a damaged one is deleted, which is said."""
    for path in (folder / STATE, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            _check(path)
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001  (its bytes lead to whatever error)
            reason = " ".join(str(error).split())[:80]
            log.warning("%s is damaged (%s): going back to the state before it", path, reason)
            path.unlink()
    return None


def _check(path: Path) -> None:
    """Compare the checksums, which torch writes and does not read.

    Raises:
        BadZipFile: The file is cut short, or its bytes are not those that were written.
    """
    with ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise BadZipFile(f"the checksum of {name} is wrong")
