"""Run a stage or a verb as a user does, in this process: exit code, stderr, what it wrote."""

import io
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported

from cordel.runtime.console import SIGNALS, run_stage

SECRETS = {"HF_TOKEN": "hf_nobodyshouldeverreadthis", "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/no"}
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a user sees."""

    code: int
    stderr: str

    @property
    def error(self) -> str:
        """The last line."""
        return (self.stderr.strip().splitlines() or [""])[-1]


def call(main: Callable[[], None], words: Sequence[str], *, verb: bool = False) -> Outcome:
    """Return what ``main`` does with these words; a verb runs ``run_stage`` by itself."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    stderr = io.StringIO()
    code = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(stderr), redirect_stdout(stderr):
        patch.setattr(sys, "argv", list(words))
        patch.setattr(logging, "basicConfig", lambda **_: None)
        try:
            main() if verb else run_stage(main)
        except SystemExit as end:
            # What the interpreter does with it.
            code = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                stderr.write(end.code + "\n")
        except BaseException:  # noqa: BLE001  (it is what the suite looks for)
            code = 1
            stderr.write(traceback.format_exc())
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Outcome(code, stderr.getvalue())


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file and folder, those of unfinished work (.ckpt) left out."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if ".ckpt" not in path.parts and not path.is_dir()
    }


@dataclass(slots=True)
class Project:
    """The toy project, in which one thing at a time is spoilt."""

    root: Path
    pristine: Path
    cases: int = 0
    tracebacks: int = 0

    @contextmanager
    def changed(self, name: str, content: bytes | None, *, folder: bool = False) -> Iterator[None]:
        """Give a file other content (None: delete it; ``folder``: an empty folder instead)."""
        path = self.root / name
        if path.exists():
            path.unlink()
        if folder:
            path.mkdir(parents=True)
        elif content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            yield
        finally:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if (self.pristine / name).exists():
                shutil.copyfile(self.pristine / name, path)
            elif path.parent != self.root and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def refuses(
        self, main: Callable[[], None], words: Sequence[str], *names: str, verb: bool = False
    ) -> Outcome:
        """Hold a run to what is expected of it, and return what it said.

        Args:
            main: Of a stage, or of the command ``cordel``.
            words: Of the command line.
            names: One of them must be in the error: a file, a folder, a key.
            verb: Whether ``main`` is that of ``cordel``.
        """
        shutil.rmtree(self.root / ".ckpt", ignore_errors=True)
        before = tree(self.root)
        self.cases += 1
        found = call(main, words, verb=verb)
        self.tracebacks += TRACEBACK in found.stderr
        after = tree(self.root)
        if after != before:
            self.restore()
        what = f"{' '.join(words)[:200]}\n{found.stderr[-2500:]}"
        assert TRACEBACK not in found.stderr, what
        assert found.code != 0, f"it went through: {what}"
        if found.code == 2:  # argparse: usage, then what is wrong
            assert ": error: " in found.error, what
        else:
            assert found.error.startswith("error: "), what
        assert len(found.error) < 1000, what
        assert not any(secret in found.stderr for secret in SECRETS.values()), what
        assert found.stderr.count("error: ") == 1, what
        assert not names or any(name in found.error for name in names), what
        assert after == before, f"it wrote {set(after.items()) ^ set(before.items())}: {what}"
        return found

    def restore(self) -> None:
        """Make the project what it was."""
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.pristine, self.root, dirs_exist_ok=True)
        os.chdir(self.root)
