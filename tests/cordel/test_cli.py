"""The console command: its help teaches, and a mistake is one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = "from cordel.cli import main; main()"


@pytest.fixture
def folder(project: Path, tmp_path: Path) -> Path:
    """Return a folder with the project's params.yaml and profiles."""
    shutil.copytree(project / "profiles", tmp_path / "profiles")
    shutil.copyfile(project / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


def cordel(folder: Path, project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in ``folder``."""
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(project / "src"), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_teaches_the_verbs_and_examples(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "--help")
    assert done.returncode == 0
    for words in ("profile", "publish-results", "results", "dvc repro", "cordel profile ptbr && "):
        assert words in done.stdout


@pytest.mark.parametrize("words", [(), ("reproduce",)])
def test_without_a_known_verb_the_usage_is_shown(
    words: tuple[str, ...], folder: Path, project: Path
) -> None:
    done = cordel(folder, project, *words)
    assert done.returncode == 2
    assert "usage: cordel" in done.stderr


def test_an_unknown_profile_is_one_line_and_exit_code_one(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "profile", "huge")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line == "error: no profile 'huge'; there are: ptbr, smoke, thesis"


def test_a_profile_says_how_many_keys_changed_and_what_next(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "profile", "smoke")
    assert done.returncode == 0
    assert "params.yaml is now profile smoke: " in done.stderr
    assert "dvc repro" in done.stderr
    assert "\nprofile: smoke " in (folder / "params.yaml").read_text("utf-8")


def test_publishing_another_profile_is_refused(folder: Path, project: Path) -> None:
    done = cordel(folder, project, "publish-results", "ptbr")
    assert done.returncode == 1
    assert "params.yaml is profile 'sample', not 'ptbr'" in done.stderr
