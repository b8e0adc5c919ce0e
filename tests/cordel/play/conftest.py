"""A toy project with two runs, a base and one of its adapters; v5_main and sft are missing."""

from pathlib import Path

import pytest
import yaml

from tests.bad_inputs.harness import call
from tests.bad_inputs.toy import COMMANDS, main_of, toy_params

STAGES = (
    *("export_corpus", "split_corpus", "clean_corpus", "train_tokenizer", "encode_corpus"),
    *("train_lm", "score_lm", "sample_lm", "export_model", "open_base", "prepare_cpt"),
    *("prepare_sft", "prepare_tasks", "adapt_cpt", "generate_answers"),
)


def build_models(folder: Path) -> None:
    """Run the stages that make the models, and what they sample, score and answer."""
    (folder / "params.yaml").write_text(yaml.safe_dump(toy_params(), allow_unicode=True), "utf-8")
    for command in COMMANDS:
        words = command.split()
        if words[0] in STAGES and "data/adapters/sft" not in words:
            found = call(main_of(words[0]), words)
            if found.code:
                raise AssertionError(f"{command}\n{found.stderr}")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the project's folder."""
    folder = tmp_path_factory.mktemp("play")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        build_models(folder)
    return folder


@pytest.fixture
def here(built: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the project's folder."""
    monkeypatch.chdir(built)
    return built
