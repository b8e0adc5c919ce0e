"""``cordel play`` in a terminal, as a user types it."""

from pathlib import Path

import pytest

from cordel import cli
from tests.bad_inputs.harness import call

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("here")]


def cordel(*words: str) -> list[str]:
    """Return the lines that the verb prints, which must go well."""
    found = call(cli.main, ["cordel", "play", *words], verb=True)
    assert found.code == 0, found.stderr
    return found.stderr.splitlines()  # both streams


def test_a_prompt_is_continued_by_each_model() -> None:
    lines = cordel("--text", "Era uma vez", "--models", "v7", "v1", "--tokens", "3")
    assert [line for line in lines if line.startswith("== ")] == ["== v7", "== v1"]
    assert any(line.startswith("Era uma vez") for line in lines)
    assert any(line.startswith("era uma vez") for line in lines)


def test_the_seed_decides() -> None:
    words = ("--text", "Era uma vez", "--models", "v7", "--tokens", "8", "--seed")
    assert cordel(*words, "1") == cordel(*words, "1")
    assert cordel(*words, "1") != cordel(*words, "2")


def test_a_file_is_scored_under_all_models_that_are_there(tmp_path: Path) -> None:
    file = tmp_path / "texto.txt"
    file.write_text("Em 1994, a cooperativa encerrou a colheita.", "utf-8")
    lines = cordel("--score", str(file))
    scored = {line.split()[0] for line in lines if "bits per byte" in line}
    assert scored == {"v1", "v7", "base", "cpt"}
    assert "v5_main: not here yet; dvc repro train_lm@v5_main" in lines
