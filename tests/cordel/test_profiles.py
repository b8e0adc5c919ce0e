"""Overlays of profiles/: they merge into params.yaml, keep its comments and stay in its words."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cordel.adaptation.base import BaseModelParams
from cordel.adaptation.generation import GenerationParams
from cordel.adaptation.qlora import AdaptationParams
from cordel.adaptation.quantised import LoraParams
from cordel.compute import ComputeParams
from cordel.corpus.cleaning import CleaningParams
from cordel.corpus.instructions import SftDataParams
from cordel.corpus.leakage import LeakageParams
from cordel.corpus.sources import CorpusParams
from cordel.corpus.splits import SplitParams
from cordel.corpus.tasks import TaskParams
from cordel.costs import CostParams
from cordel.evaluation.calibration import CalibrationParams
from cordel.evaluation.references import ReferenceParams
from cordel.evaluation.sampling import SamplingParams
from cordel.evaluation.scoring import ScoringParams
from cordel.evaluation.significance import ResamplingParams
from cordel.models import parse_architecture
from cordel.profiles import apply_profile, load_params, save_params
from cordel.reporting.cards.render import CardParams
from cordel.runtime.errors import ParamsError
from cordel.runtime.params import parse
from cordel.seeds import SeedParams
from cordel.tokenizers.params import CharParams, TokenizerParams
from cordel.training.params import RunParams
from stages.continue_documents import ContinuationParams
from stages.encode_corpus import DatasetParams, EvaluationParams
from stages.prepare_cpt import CptDataParams
from stages.sample_early import EarlyParams
from stages.score_adaptation import AdaptationScoringParams

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
BASE = """\
# Every number.
profile: sample  # which overlay

corpus:          # export_corpus
  size: 10       # of documents
  rate: 1.0e-3
  words: [a, b]  # in order
  pattern: "ç*"
  prompt: "Uma frase longa, que num arquivo de oitenta colunas seria dobrada em duas linhas."
# --- Runs
models:
  v1: {layers: 2}  # thesis: 4
"""


def project_with(folder: Path, **overlays: str) -> Path:
    """Write params.yaml and some profiles, and return their folder."""
    (folder / "params.yaml").write_text(BASE, "utf-8")
    (folder / "profiles").mkdir()
    for name, text in overlays.items():
        (folder / "profiles" / f"{name}.yaml").write_text(text, "utf-8")
    return folder


def text_of(root: Path) -> str:
    """Return params.yaml as it is now."""
    return (root / "params.yaml").read_text("utf-8")


def test_only_the_values_change(tmp_path: Path) -> None:
    root = project_with(tmp_path, big="corpus: {size: 99, words: [ç]}\nmodels: {v1: {layers: 4}}\n")
    changed = apply_profile("big", root=root)
    assert changed == ["profile", "corpus.size", "corpus.words", "models.v1.layers"]
    expected = BASE.replace("sample ", "big ").replace("10 ", "99 ").replace("[a, b]", "[ç]")
    expected = expected.replace("layers: 2", "layers: 4")
    # Comments stay where they are, but for the column of those after a shorter or longer value.
    assert re.sub(" +#", " #", text_of(root)) == re.sub(" +#", " #", expected)


def test_applying_a_profile_again_changes_nothing(tmp_path: Path) -> None:
    root = project_with(tmp_path, big="corpus: {size: 99}\n")
    apply_profile("big", root=root)
    before = text_of(root)
    assert apply_profile("big", root=root) == []
    assert text_of(root) == before


def test_a_value_that_is_the_same_is_no_change(tmp_path: Path) -> None:
    root = project_with(tmp_path, same="corpus: {size: 10, rate: 0.001}\n")
    assert apply_profile("same", root=root) == ["profile"]
    assert "rate: 1.0e-3" in text_of(root)


@pytest.mark.parametrize(
    ("overlay", "key"),
    [("corpora: {size: 1}", "corpora"), ("models: {v1: {layer: 3}}", "models.v1.layer")],
)
def test_an_unknown_key_is_named_and_nothing_is_written(
    overlay: str, key: str, tmp_path: Path
) -> None:
    root = project_with(tmp_path, wrong="corpus: {size: 99}\n" + overlay)
    with pytest.raises(ParamsError, match=rf"wrong\.yaml: unknown key '{key}'"):
        apply_profile("wrong", root=root)
    assert text_of(root) == BASE


def test_a_second_profile_on_top_of_another_is_refused(tmp_path: Path) -> None:
    root = project_with(tmp_path, big="corpus: {size: 99}\n", small="corpus: {size: 1}\n")
    apply_profile("big", root=root)
    with pytest.raises(ParamsError, match=r"params\.yaml already is profile 'big'.*git checkout"):
        apply_profile("small", root=root)


def test_a_profile_that_does_not_exist_names_those_that_do(tmp_path: Path) -> None:
    root = project_with(tmp_path, big="corpus: {}\n", small="corpus: {}\n")
    with pytest.raises(ParamsError, match="no profile 'huge'; there are: big, small"):
        apply_profile("huge", root=root)


def test_the_sample_is_no_overlay(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"git checkout main -- params\.yaml"):
        apply_profile("sample", root=project_with(tmp_path))


def test_a_profile_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    root = project_with(tmp_path, wrong="corpus: {size: [1}\n")
    with pytest.raises(ParamsError, match=r"wrong\.yaml: not valid YAML: "):
        apply_profile("wrong", root=root)


def test_without_params_yaml_the_place_is_wrong(tmp_path: Path) -> None:
    root = project_with(tmp_path, big="corpus: {size: 99}\n")
    (root / "params.yaml").unlink()
    with pytest.raises(ParamsError, match=r"params\.yaml: no such file; run from the root"):
        apply_profile("big", root=root)


# --- the profiles that we ship --------------------------------------------------------------------


def test_three_profiles_are_shipped() -> None:
    assert SHIPPED == ["ptbr", "smoke", "thesis"]


def test_reading_and_writing_params_yaml_changes_no_byte(tmp_path: Path) -> None:
    save_params(tmp_path / "params.yaml", load_params(ROOT / "params.yaml"))
    assert text_of(tmp_path) == text_of(ROOT)


@pytest.fixture(params=SHIPPED)
def applied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with the project's params.yaml under each of the profiles."""
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    text = (ROOT / "params.yaml").read_text("utf-8")
    text = re.sub(r"(?m)^profile: \w+", "profile: sample", text)  # also while one is applied here
    (tmp_path / "params.yaml").write_text(text, "utf-8")
    apply_profile(request.param, root=tmp_path)
    return tmp_path


def test_every_comment_survives(applied: Path) -> None:
    before = (ROOT / "params.yaml").read_text("utf-8")
    comments = [sorted(re.findall(r"(?:^| )#.*", text)) for text in (before, text_of(applied))]
    assert len(comments[0]) > 90
    assert comments[1] == comments[0]


def owners_of(params: dict[str, Any]) -> Iterator[tuple[str, type]]:
    """Yield each section and the dataclass of the stage that reads it."""
    yield from {
        "corpus": CorpusParams,
        "splits": SplitParams,
        "evaluation": EvaluationParams,
        "compute": ComputeParams,
        "scoring": ScoringParams,
        "references": ReferenceParams,
        "sampling": SamplingParams,
        "early": EarlyParams,
        "guardrails": CalibrationParams,
        "lora": LoraParams,
        "cpt_data": CptDataParams,
        "cpt": AdaptationParams,
        "sft_data": SftDataParams,
        "sft": AdaptationParams,
        "tasks": TaskParams,
        "continuation": ContinuationParams,
        "generation": GenerationParams,
        "scoring_adaptation": AdaptationScoringParams,
        "resampling": ResamplingParams,
        "cards": CardParams,
        "leakage": LeakageParams,
        "costs": CostParams,
        "seeds": SeedParams,
    }.items()
    for name, values in params["tokenizers"].items():
        yield f"tokenizers.{name}", CharParams if values["kind"] == "char" else TokenizerParams
    for group, owner in (
        ("cleaning", CleaningParams),
        ("datasets", DatasetParams),
        ("models", RunParams),
        ("base_models", BaseModelParams),
    ):
        for name in params[group]:
            yield f"{group}.{name}", owner


def test_every_section_of_a_profile_is_what_its_stage_expects(applied: Path) -> None:
    params = yaml.safe_load(text_of(applied))
    found = []
    for section, owner in owners_of(params):
        group, _, name = section.partition(".")
        assert parse(params[group][name] if name else params[group], owner, section)
        found.append(section)
    assert {section.split(".")[0] for section in found} == params.keys() - {"profile"}
    # 11 + 12 sections, 6 tokenizers, 3 recipes, 8 datasets, 12 runs, 2 base models.
    assert len(found) == 11 + 12 + 6 + 3 + 8 + 12 + 2


def test_every_run_of_a_profile_is_an_architecture_on_a_dataset(applied: Path) -> None:
    params = yaml.safe_load(text_of(applied))
    for name, values in params["models"].items():
        run = parse(values, RunParams, name)
        assert parse_architecture(run.architecture, run.model, name)
        dataset = params["datasets"][run.dataset]
        assert dataset["tokenizer"] in params["tokenizers"]
        assert dataset["recipe"] in params["cleaning"]


def test_the_thesis_profile_has_the_thesis_qlora() -> None:
    overlay = yaml.safe_load((ROOT / "profiles/thesis.yaml").read_text("utf-8"))
    params = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    lora = params["lora"] | overlay["lora"]
    assert (lora["rank"], lora["alpha"], lora["dropout"]) == (16, 32, 0.05)
    assert len(lora["targets"]) == 7
    for name, rate, epochs in (("cpt", 2e-4, 3), ("sft", 1e-4, 2)):
        section = params[name] | overlay[name]
        assert (section["learning_rate"], section["epochs"]) == (rate, epochs)
        assert (section["warmup_steps"], section["weight_decay"]) == (100, 0.01)
        assert (section["schedule"], section["grad_clip"]) == ("cosine", 1.0)
        assert section["block_length"] == 2048
        assert section["gradient_checkpointing"]
