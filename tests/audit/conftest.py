"""The published artifacts, found by hash once a session."""

import shutil
from pathlib import Path

import pytest

from audit.collect import find
from audit.published import Published, expected


@pytest.fixture(scope="session")
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Return every artifact of ``audit/artifacts.yaml``."""
    folder = tmp_path_factory.mktemp("published")
    for name, path in find(shared / "data", expected()).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return Published(folder)
