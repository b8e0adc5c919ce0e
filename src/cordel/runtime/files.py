"""Files as every stage writes them: UTF-8, Unix newlines, sorted keys, complete or absent."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from cordel.runtime.errors import (
    ArtifactError,
    EnvironmentProblem,
    MissingKeyError,
    UserError,
)

DIGITS = 6  # of metrics: enough to compare, few enough that `dvc metrics diff` shows no noise
MAKER = "the stage that makes it"


def rounded(value: Any) -> Any:
    """Return ``value`` with every float in it rounded to ``DIGITS`` decimals."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, which then holds all of it or what it held before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON with sorted keys; Portuguese stays readable."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


@contextmanager
def reading(path: Path, *, maker: str = MAKER) -> Iterator[None]:
    """Let the block read ``path``: whatever it raises is the file's fault.

    Libraries raise whatever the bytes of a broken file lead them to. ``maker`` is the stage to
    rerun.

    Raises:
        ArtifactError: The block failed.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; `dvc repro` makes it") from None
    except Exception as error:  # noqa: BLE001  (see above)
        message = " ".join(str(error).split())[:300] or type(error).__name__
        raise ArtifactError(f"{path}: cannot be read ({message}); rerun {maker}") from None


def read_json(path: Path, *, kind: type = dict) -> Any:
    """Return the value in ``path``.

    A key that an object of it lacks raises ``ArtifactError`` too, wherever it is asked for.

    Args:
        path: The file.
        kind: What it holds, an object or a list.

    Raises:
        ArtifactError: The file is missing, not JSON, or holds something else.
    """
    with reading(path):
        value = _parsed(path.read_bytes(), path)
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list"}
        found = next((n for k, n in names.items() if isinstance(value, k)), f"{value!r:.40}")
        raise ArtifactError(f"{path}: holds {found}, expected {names[kind]}; rerun {MAKER}")
    return value


def _parsed(text: str | bytes, where: Path | str) -> Any:
    """Return the value of JSON text, whose objects say by name which key they lack."""

    class Object(dict[str, Any]):
        def __missing__(self, key: str) -> NoReturn:
            raise MissingKeyError(f"{where}: {key!r} is missing; rerun {MAKER}")

    try:
        return json.loads(text, object_pairs_hook=Object)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: not JSON ({error}); rerun {MAKER}") from None


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line; without any, one empty line (DVC warns of empty files)."""
    lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    write_text(path, "".join(lines) or "\n")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file that ``write_jsonl`` wrote.

    Raises:
        ArtifactError: The file is missing, a line is not JSON or no object, or a key is asked for
            that an object lacks.
    """
    with reading(path):
        lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _parsed(line, f"{path}:{number}")
            if not isinstance(row, dict):
                raise ArtifactError(f"{path}:{number}: no object but {row!r:.40}; rerun {MAKER}")
            yield row


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows that share their keys, in the order of the first row's keys."""
    header = list(rows[0])
    lines = [header, *([row[key] for key in header] for row in rows)]
    text = "\n".join(",".join("" if v is None else str(v) for v in line) for line in lines)
    write_text(path, text + "\n")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give a folder to fill; it becomes ``path`` only if the block succeeds.

    Raises:
        EnvironmentProblem: Another process is filling it, such as one whose DVC was killed.
    """
    partial = path.with_name(path.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    lock = os.open(partial, os.O_RDONLY)
    try:
        _lock_folder(lock, path)
        try:
            for left in partial.iterdir():  # by a run that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield partial
            shutil.rmtree(path, ignore_errors=True)
            partial.replace(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(lock)


def _lock_folder(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EnvironmentProblem(
            f"{path}: another process is writing it; wait until that ends, and run again"
        ) from None
    except OSError:  # some network file systems have no locks on folders
        return
