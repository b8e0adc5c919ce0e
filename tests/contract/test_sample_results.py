"""What the committed results of the sample must show: models learn, and v7 makes the best of it."""

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_pipeline_contract import PARAMS, ROOT

RUNS = list(PARAMS["models"])


def metrics(run: str) -> dict[str, Any]:
    return json.loads((ROOT / f"metrics/lm/{run}.json").read_text(encoding="utf-8"))


def cpu_seconds(run: str) -> float:
    """Of the committed run: a rerun on a busy machine says nothing about the models."""
    name = f"HEAD:metrics/ledger/train_lm/{run}.json"
    shown = subprocess.run(["git", "show", name], cwd=ROOT, capture_output=True, check=True)
    return sum(attempt["cpu_seconds"] for attempt in json.loads(shown.stdout))


def curve(path: Path) -> list[float]:
    with path.open(encoding="utf-8") as lines:
        return [float(row["val_bits_per_byte"]) for row in csv.DictReader(lines)]


@pytest.mark.parametrize("run", RUNS)
def test_every_run_beats_the_uniform_line(run: str):
    assert metrics(run)["bits_per_byte"] < 8


@pytest.mark.parametrize("run", RUNS)
def test_every_run_is_30_percent_better_than_at_step_0(run: str):
    values = curve(ROOT / f"plots/curves/{run}.csv")
    assert min(values) <= 0.7 * values[0]


def test_v7_has_the_lowest_bits_per_byte_and_pays_for_every_byte():
    assert min(RUNS, key=lambda run: metrics(run)["bits_per_byte"]) == "v7"
    assert metrics("v7")["lossless"] is True
    assert metrics("v7")["unk_bytes"] == 0


def test_v7_takes_no_more_cpu_time_than_the_thesis_last_run():
    assert cpu_seconds("v7") <= cpu_seconds("v6_rc16k_v5b_aligned")


def test_the_tokenizer_of_v7_writes_everything_and_the_thesis_does_not():
    read = {
        name: json.loads((ROOT / f"metrics/tokenizers/{name}.json").read_text(encoding="utf-8"))
        for name in ("unigram_v7", "unigram16k")
    }
    assert read["unigram_v7"]["exact_documents_rate"] == 1.0
    assert read["unigram16k"]["unwritable_count"] > 0
    assert read["unigram16k"]["vocab_size"] < read["unigram16k"]["vocab_size_asked"]


@pytest.mark.parametrize(
    ("task", "metric"),
    [("qa", "f1"), ("qa", "rouge_l"), ("summarization", "rouge_l"), ("rewriting", "rouge_l")],
)
def test_sft_gains_on_every_task_beyond_chance(task: str, metric: str):
    answers = json.loads((ROOT / "metrics/answers.json").read_text(encoding="utf-8"))
    assert answers["gains"]["sft-base"][task][metric]["ci"][0] > 0


def test_cpt_lowers_bits_per_byte_on_its_evaluation_split():
    scores = json.loads((ROOT / "metrics/adaptation.json").read_text(encoding="utf-8"))
    assert scores["cpt"]["cpt"]["bits_per_byte"] < scores["base"]["cpt"]["bits_per_byte"]


def test_the_leakage_check_scored_what_the_others_scored():
    found = json.loads((ROOT / "metrics/leakage.json").read_text(encoding="utf-8"))
    bits = {run: scores["all"] for run, scores in found["test"]["train"]["scores"].items()}
    assert bits.keys() > set(RUNS)
    assert bits == pytest.approx({run: metrics(run)["bits_per_byte"] for run in bits}, abs=2e-6)
    answers = json.loads((ROOT / "metrics/answers.json").read_text(encoding="utf-8"))
    for task, parts in found["tasks"]["sft_train"]["scores"]["sft"].items():
        # As many items of each seed: the mean over items is the mean over seeds.
        means = {name: answers["sft"][task][name]["mean"] for name in parts["all"]}
        assert parts["all"] == pytest.approx(means, abs=2e-6)


def test_the_sample_has_no_copy_of_an_evaluation_text_in_what_models_trained_on():
    found = json.loads((ROOT / "metrics/leakage.json").read_text(encoding="utf-8"))
    sets = [
        counts for where in found.values() if isinstance(where, dict) for counts in where.values()
    ]
    assert len(sets) == 9
    assert [counts["exact"] for counts in sets] == [0] * 9
    assert found["tasks"]["sft_train"]["overlapping"] == 0
