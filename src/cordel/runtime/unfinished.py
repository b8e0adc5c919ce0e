"""Folders of work in progress, kept outside DVC's outs so that DVC cannot delete them.

``.ckpt/<stage>/<item>/<fingerprint>/`` is keyed by everything that determines the result, so
what is found in it may be gone on with. One process at a time has it.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from cordel.runtime.errors import EnvironmentProblem

KEEP = 2  # fingerprints of one item: the current one and the one before


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
    """Give the locked folder of one item; ``DVC_ROOT`` is the main repository in experiments too.

    Raises:
        EnvironmentProblem: Another process is at work on the same.
    """
    base = Path(os.environ.get("DVC_ROOT") or ".") / ".ckpt" / stage / item
    folder = base / key
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)  # before the lock: nobody who prunes takes it for old in between
    with (folder / "lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip()
            raise EnvironmentProblem(
                f"process {pid} is already at work on {stage} {item} (it holds {folder}/lock); "
                f"wait until it ends, or stop it with `kill {pid}`, and run again: nothing is lost"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        others = sorted(base.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)[KEEP:]
        for other in others:
            _remove_unless_in_use(other)
        yield folder


def _remove_unless_in_use(folder: Path) -> None:
    """Delete an old folder; one in which a parallel experiment is at work is locked and stays."""
    with suppress(OSError), (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
