"""One toy project for all cases of a process, and the count at the end."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bad_inputs.harness import SECRETS, Project
from tests.bad_inputs.toy import build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return the project in which every stage ran."""
    pristine = tmp_path_factory.mktemp("pristine")
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pristine)
        patch.delenv("DVC_ROOT", raising=False)
        for name, secret in SECRETS.items():
            patch.setenv(name, secret)
        build(pristine)
    shutil.rmtree(pristine / ".ckpt")
    shutil.copytree(pristine, root, dirs_exist_ok=True)
    return Project(root, pristine)


@pytest.fixture
def toy(
    built: Project, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> Iterator[Project]:
    """Work in the project, outside DVC and logged in to a hub; count the cases of the test."""
    monkeypatch.chdir(built.root)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    built.cases = built.tracebacks = 0
    yield built
    record_property("cases", built.cases)
    record_property("tracebacks", built.tracebacks)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many bad inputs were tried, and how many of them ended in a traceback."""
    totals = {"cases": 0, "tracebacks": 0}
    for report in (r for reports in terminalreporter.stats.values() for r in reports):
        if Path(__file__).parent.name in getattr(report, "nodeid", ""):
            for name, value in getattr(report, "user_properties", ()):
                totals[name] = totals.get(name, 0) + value
    if totals["cases"]:
        terminalreporter.write_line(
            f"bad inputs: {totals['cases']} cases, {totals['tracebacks']} tracebacks"
        )
