"""Logs, progress and exit codes of a stage."""

import errno
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

from cordel.runtime.errors import UserError

T = TypeVar("T")
log = logging.getLogger("cordel")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# safetensors and tokenizers name the error; torch only where it happened
FULL = re.compile(
    r"No space left|File too large|quota exceeded|PytorchStreamWriter|inline_container"
)
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|_KEY\b|APIKEY", re.IGNORECASE)
SHORTEST_SECRET = 8  # characters; masking every "1" would hide more than a secret
# How torch says it: CUDA, CPU, and a size beyond what a number of bytes can be.
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|overflow|invalid dimension")
LINE_EVERY_SECONDS = 30.0  # in a log file; a terminal gets a line that rewrites itself


class Stopped(BaseException):
    """SIGTERM or SIGINT arrived. Not an ``Exception``, so that nothing swallows it."""


_received: list[int] = []


def _stop_now(number: int, _: FrameType | None) -> None:
    _received.append(number)
    raise Stopped


def _remember(number: int, _: FrameType | None) -> None:
    if _received:  # the second request does not wait
        raise Stopped
    _received.append(number)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Let the block ask whether to stop, instead of being interrupted in the middle of a step."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, _remember)
    try:
        yield lambda: bool(_received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_stage(main: Callable[[], None]) -> NoReturn:
    """Run a stage's ``main``, turning a user's mistake into one line on stderr and exit code 1.

    A defect of ours keeps its traceback. SIGTERM and SIGINT stop the stage with code 128 + signal,
    after the code that is running has had its chance to clean up or save.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Masked("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for number in SIGNALS:
        signal.signal(number, _stop_now)
    try:
        main()
    except UserError as error:
        sys.exit(without_secrets(f"error: {' '.join(str(error).split())}"))
    except Stopped:
        sys.stderr.write(f"stopped by {signal.Signals(_received[0]).name}\n")
        sys.exit(128 + _received[0])
    except Exception as error:
        said = _fault_of_the_machine(error)
        if said is None:
            raise
        sys.exit(without_secrets(f"error: {said}"))
    sys.exit(0)


def _fault_of_the_machine(error: Exception) -> str | None:
    """Return what is wrong with disk, memory or a file, and what to do; None: a defect of ours."""
    why, where = " ".join(str(error).split())[:300], getattr(error, "filename", None)
    # Each library reports a full disk in its own way.
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or FULL.search(why):
        return f"{where or 'output'}: {why}; free some disk space and run again"
    if isinstance(error, OSError):
        why = f"{where}: {error.strerror}" if where else why
        return f"{why}; check the path and its permissions, or rerun the stage that makes it"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and NO_MEMORY.search(why)
    ):
        return (
            "there is not enough memory for this; lower batch_size, a length or a size of the "
            f"model in params.yaml ({why})"
        )
    return None


def without_secrets(text: str) -> str:
    """Return ``text`` with the values of the environment's tokens, passwords and keys masked."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, f"<{name}>")
    return text


class _Masked(logging.Formatter):
    """Writes records, their tracebacks included, without the environment's secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return without_secrets(super().format(record))


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``41 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """A count with its rate and, where the total is known, the time left."""

    def __init__(self, label: str, unit: str, total: int | None = None, done: int = 0) -> None:
        """Start the clock at ``done`` units."""
        self.label, self.unit, self.total = label, unit, total
        self.done = self._from = done
        self._started_at = self._shown_at = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count ``amount`` more and show the line if it is time."""
        self.done += amount
        now = time.monotonic()
        if now - self._shown_at < (0.2 if self._terminal else LINE_EVERY_SECONDS):
            return
        self._shown_at = now
        rate = (self.done - self._from) / (now - self._started_at)
        text = f"{self.label}: {self.done:,}"
        if self.total:
            left = duration((self.total - self.done) / rate) if rate else "?"
            text += f" of {self.total:,} {self.unit}, {rate:,.0f}/s, {left} left"
        else:
            text += f" {self.unit}, {rate:,.0f}/s"
        text += f", {note}" if note else ""
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
        else:
            log.info("%s", text)

    def close(self) -> None:
        """Clear the terminal's line."""
        if self._terminal:
            sys.stderr.write("\r\x1b[K")


def progress(items: Iterable[T], *, label: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` under a progress line."""
    shown = Progress(label, unit, total)
    for item in items:
        yield item
        shown.advance()
    shown.close()
