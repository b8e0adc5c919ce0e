"""The published artifacts, by their path in the thesis' repository, and the results on them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cordel.runtime.errors import InputError
from cordel.runtime.files import write_json

T = TypeVar("T")
TABLE = Path(__file__).with_name("artifacts.yaml")


class NotAtHandError(InputError):
    """An artifact that a check needs was not under PUBLISHED."""


class Published:
    """The folder that ``audit.collect`` filled. Pickles are never opened."""

    def __init__(self, folder: Path) -> None:
        """Look in ``folder``."""
        self.folder = folder

    def path(self, name: str) -> Path:
        """Return where the artifact ``name`` lies.

        Raises:
            NotAtHandError: It was not found.
        """
        path = self.folder / name
        if not path.is_file():
            raise NotAtHandError(f"{name} is not at hand; give PUBLISHED a folder that has it")
        return path

    def text(self, name: str) -> str:
        """Return the artifact as text, a byte order mark dropped."""
        return self.path(name).read_text(encoding="utf-8-sig")

    def json(self, name: str) -> Any:
        """Return the value of a JSON artifact."""
        return json.loads(self.text(name))

    def jsonl(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of a JSONL artifact."""
        return [json.loads(line) for line in self.text(name).split("\n") if line.strip()]


def expected() -> dict[str, str]:
    """Return the SHA-256 of each artifact of ``artifacts.yaml``, by its path."""
    return yaml.safe_load(TABLE.read_text(encoding="utf-8"))


def missing(folder: Path) -> list[str]:
    """Return the artifacts of the table that are not at hand."""
    return sorted(name for name in expected() if not (folder / name).is_file())


def tried(check: Callable[[], T]) -> T | dict[str, str]:
    """Return what ``check`` finds, or ``{"not_checkable": why}`` where an artifact is missing."""
    try:
        return check()
    except NotAtHandError as error:
        return {"not_checkable": str(error)}


def write_results(path: Path, value: Any) -> None:
    """Write what a check found, floats with 12 significant digits.

    Whether a difference is zero is decided before that; the last bits of a sum are the CPU's.
    """
    write_json(path, _significant(value))


def _significant(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if isinstance(value, Mapping):
        return {key: _significant(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_significant(item) for item in value]
    return value
