"""The stage write_cards on the committed metrics: read back by the hub's own classes."""

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import DatasetCard, EvalResult, ModelCard

from cordel.runtime.console import duration
from cordel.runtime.errors import ArtifactError
from stages import write_cards

BASE = {"source": "local", "model": "data/export/v7", "revision": None, "max_length": 256}
ARMS = ("cpt", "sft", "cpt_sft")
RECIPES = ("lossless", "prose", "web")
# What stands in the words: F1, v7, UTF-8, float32, NF4 and Apache-2.0 are names.
NAME = re.compile(r"[A-Za-z][\w.-]*\d[\w.]*")
NUMBER = re.compile(r"\d[\d.,]*\d|\d")


@pytest.fixture
def cards(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the committed metrics in which the stage ran as dvc.yaml says."""
    monkeypatch.chdir(tmp_path)
    for name in ("metrics", "params.yaml"):
        Path(name).symlink_to(project / name)
    for name, value in (("base", BASE), ("instruct", {"source": "none"})):
        Path("data/base", name).mkdir(parents=True)
        Path("data/base", name, "base.json").write_text(json.dumps(value), "utf-8")
    run(project, monkeypatch)
    return tmp_path / "data/cards"


def run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command of dvc.yaml."""
    pipeline = yaml.safe_load((project / "dvc.yaml").read_text("utf-8"))
    command = shlex.split(pipeline["stages"]["write_cards"]["cmd"])
    monkeypatch.setattr(sys, "argv", command[2:])
    write_cards.main()


def metrics(project: Path, name: str) -> Any:
    return json.loads((project / "metrics" / f"{name}.json").read_text("utf-8"))


def results(card: ModelCard) -> dict[tuple[str | None, str], Any]:
    """Return the value of each result, by configuration and metric."""
    found = card.data.eval_results or []
    return {(result.dataset_config, result.metric_type): result.metric_value for result in found}


def test_everything_that_can_be_published_has_a_card(cards: Path) -> None:
    expected = {"v7", *ARMS, "sft_merged", *RECIPES}
    assert {path.parent.name for path in cards.glob("*/README.md")} == expected


@pytest.mark.parametrize("name", ["v7", *ARMS])
def test_results_are_read_back_as_the_metrics_have_them(
    name: str, cards: Path, project: Path
) -> None:
    score, answers = metrics(project, f"lm/{name}"), metrics(project, "answers").get(name)
    found = results(ModelCard.load(cards / name / "README.md"))
    expected = {
        ("lossless", metric): score[metric]
        for metric in ("bits_per_byte", "perplexity", "accuracy")
    }
    if answers:
        pairs = [("qa", "em"), ("qa", "f1"), ("summarization", "rouge_l"), ("rewriting", "rouge_l")]
        expected |= {(task, metric): answers[task][metric]["mean"] for task, metric in pairs}
    assert found == expected
    assert len(found) == (7 if name in ARMS else 3)


def test_nothing_of_a_result_is_lost(cards: Path, project: Path) -> None:
    card = ModelCard.load(cards / "sft" / "README.md")
    (em,) = [r for r in card.data.eval_results or [] if r.metric_type == "em"]
    assert em == EvalResult(
        task_type="text-generation",
        dataset_type="cordel-sample",
        dataset_name="cordel's qa prompts",
        dataset_config="qa",
        dataset_split="test",
        metric_type="em",
        metric_name="exact match, mean over the seeds of the task sets",
        metric_value=metrics(project, "answers")["sft"]["qa"]["em"]["mean"],
    )
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()


@pytest.mark.parametrize(
    ("name", "front"),
    [
        ("v7", {"library_name": "transformers", "license": "apache-2.0", "base_model": None}),
        ("cpt_sft", {"library_name": "peft", "base_model": "data/export/v7", "language": "pt"}),
        ("sft_merged", {"base_model_relation": "finetune", "eval_results": None}),
    ],
)
def test_front_matter(name: str, front: dict[str, Any], cards: Path) -> None:
    data = ModelCard.load(cards / name / "README.md").data
    assert {key: data.get(key) for key in front} == front


def test_a_corpus_names_its_files_by_split(cards: Path) -> None:
    data = DatasetCard.load(cards / "web" / "README.md").data
    (config,) = data["configs"]
    assert [file["path"] for file in config["data_files"]] == [
        f"{split}.parquet" for split in ("train", "val", "test", "reserved")
    ]
    assert data["size_categories"] == ["1K<n<10K"]


def numbers_in(value: Any) -> Iterator[float]:
    """Yield every number of nested values."""
    if isinstance(value, dict):
        value = [*value.values(), *value]
    if isinstance(value, list):
        for item in value:
            yield from numbers_in(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def forms_of(value: float) -> set[str]:
    """Return how a card may write a number."""
    forms = {f"{value:,}", f"{value:,.3f}", f"{value:,.1f}", f"{100 * value:.0f}"}
    forms |= {f"{100 * value:.1f}", f"{value / 1e6:,.1f}", f"{value:.2g}", f"{value:.2f}"}
    forms |= set(NUMBER.findall(duration(3600 * value))) if value < 1e5 else set()
    return forms | {form.translate(str.maketrans(",.", ".,")) for form in forms}


@pytest.mark.parametrize("name", ["v7", *ARMS, "sft_merged", *RECIPES])
def test_every_number_of_a_card_is_one_of_the_metrics(
    name: str, cards: Path, project: Path
) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    sections = [params[key] for key in ("lora", "cleaning", "resampling")]
    read = [Path(word) for word in sys.argv if word.startswith("metrics/")]
    known = [json.loads(path.read_text("utf-8")) for path in read]
    samples = metrics(project, "guardrails/v7")["per_sample"]
    allowed: set[str] = set()
    for value in numbers_in([*known, *sections, BASE, len(samples)]):
        allowed |= forms_of(value)
    text = (cards / name / "README.md").read_text("utf-8").split("\n---\n", 1)[1]
    found = NUMBER.findall(NAME.sub("", text))
    assert [number for number in found if number not in allowed] == []
    assert len(found) > 3


@pytest.mark.parametrize("kind", ["model", "data"])
def test_no_number_is_typed_by_hand(kind: str, project: Path) -> None:
    source = project / f"src/cordel/reporting/cards/{kind}.md.jinja"
    ours = r"(?ms)\{\{.*?\}\}|\{%.*?%\}|^```.*?^```"
    text = re.sub(ours, "", source.read_text("utf-8"))
    assert NUMBER.findall(NAME.sub("", text)) == []


def test_a_lower_bound_is_marked(cards: Path, project: Path, monkeypatch: Any) -> None:
    score = metrics(project, "lm/v7") | {"lossless": False}
    board = metrics(project, "leaderboard")
    board["v7"] |= {"bound": True}
    replaced(Path("metrics"), project)
    Path("metrics/lm/v7.json").write_text(json.dumps(score), "utf-8")
    Path("metrics/leaderboard.json").write_text(json.dumps(board), "utf-8")
    run(project, monkeypatch)
    card = ModelCard.load(cards / "v7" / "README.md")
    names = [result.metric_name for result in card.data.eval_results or []]
    assert "bits per byte (a lower bound)" in names
    assert f"| ≥ {score['bits_per_byte']:.3f} [" in card.text


def replaced(link: Path, project: Path) -> None:
    """Put a copy where a link was."""
    link.unlink()
    shutil.copytree(project / link, link)


def test_licences_that_differ_are_each_named(
    cards: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    params["cards"]["instructions"]["license"] = "cc-by-nc-4.0"
    Path("params.yaml").unlink()
    Path("params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    run(project, monkeypatch)
    card = ModelCard.load(cards / "sft" / "README.md")
    assert card.data.license == "other"
    assert "`cc-by-nc-4.0`" in card.text
    assert ModelCard.load(cards / "v7" / "README.md").data.license == "apache-2.0"


def test_a_metric_that_lacks_a_key_is_named(
    cards: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced(Path("metrics"), project)
    Path("metrics/lm/v7.json").write_text("{}", "utf-8")
    before = sorted(cards.rglob("*"))
    with pytest.raises(ArtifactError, match=r"metrics/lm/v7\.json: 'lossless' is missing"):
        run(project, monkeypatch)
    assert sorted(cards.rglob("*")) == before
