"""The files of a run, by the names under which the page cites them."""

import csv
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from cordel.reporting.page.values import Sourced
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, read_jsonl, reading
from cordel.runtime.params import LOADER


class Run:
    """Reads files at most once each. What a run need not have is asked for with ``has``."""

    def __init__(self, files: Mapping[str, Path], made: Mapping[str, Any] | None = None) -> None:
        """Read ``files``, path by name, and no others: a stage reads what dvc.yaml lists.

        Args:
            files: Each by the name under which the page cites it.
            made: What will be written under a name, and is not yet.
        """
        self._files = dict(files)
        self._read = {name: Sourced(value, f"{name}#") for name, value in (made or {}).items()}

    def has(self, name: str) -> bool:
        """Say whether there is anything in a file: that of an arm without a base is empty."""
        return name in {*self._files, *self._read} and bool(self.read(name))

    def below(self, folder: str) -> dict[str, Sourced]:
        """Return what is in each file of a folder that has anything, by its stem, in order."""
        names = [name for name in self._files if Path(name).parent == Path(folder)]
        return {Path(name).stem: self.read(name) for name in names if self.has(name)}

    def read(self, name: str) -> Sourced:
        """Return the value of a file of JSON, JSON lines, CSV or YAML.

        Raises:
            ArtifactError: It is broken, or not among those of the run.
        """
        if name not in self._read:
            if name not in self._files:
                raise ArtifactError(f"{name}: no such file among those of the run; run `dvc repro`")
            self._read[name] = Sourced(_value(self._files[name]), f"{name}#")
        return self._read[name]


def _value(path: Path) -> object:
    if path.suffix == ".jsonl":
        return list(read_jsonl(path))
    if path.suffix == ".csv":
        with reading(path):
            header, *rows = csv.reader(StringIO(path.read_text(encoding="utf-8"), newline=""))
            cells = [[float(cell) if cell else None for cell in row] for row in rows]
            return [dict(zip(header, row, strict=True)) for row in cells]
    if path.suffix in (".yaml", ".lock"):
        with reading(path):
            return yaml.load(path.read_text(encoding="utf-8"), LOADER)  # noqa: S506  (a safe one)
    return read_json(path, kind=list if "ledger" in path.parts else dict)
