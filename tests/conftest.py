"""What every test may use: the marker ``shared``, one thread and the smoke profile."""

from pathlib import Path

import pytest

from tests.clones import Clone, smoke_project

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"  # the thesis' published files, beside the repository


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what needs the thesis' published files where they are not at hand."""
    if SHARED.is_dir():
        return
    lacking = [item for item in items if item.get_closest_marker("shared")]
    config.hook.pytest_deselected(items=lacking)
    items[:] = [item for item in items if not item.get_closest_marker("shared")]


@pytest.fixture(scope="session")
def project() -> Path:
    """Return the root of the repository, where ``params.yaml`` and ``stages/`` are."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of the thesis' published files."""
    return SHARED


@pytest.fixture(scope="session")
def prose() -> list[str]:
    """Return the 112 documents of the sample's prose, 171 kB."""
    files = sorted((ROOT / "data" / "sample" / "prose").glob("*.txt"))
    return [text for file in files for text in file.read_text("utf-8").split("\n\n")]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Return the reproduced profile ``smoke``, two CPU minutes' work: copy it, do not change it."""
    return smoke_project(tmp_path_factory.mktemp("smoke_project"))


@pytest.fixture
def one_thread() -> None:
    """Compute on one core: the same bytes on every machine."""
    import torch  # noqa: PLC0415  (two seconds, which most tests do not need)

    torch.set_num_threads(1)
