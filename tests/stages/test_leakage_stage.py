"""The stage check_leakage on sets in which one item of each kind was planted by hand."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from cordel.corpus.documents import Document, write_documents
from cordel.corpus.instructions import Example, write_examples
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_json, read_jsonl, write_jsonl
from stages import check_leakage

COMMAND = (
    "check_leakage --clean clean/lossless --prose clean/prose --documents cpt --examples sft "
    "--tasks tasks.jsonl --metrics metrics/leakage.json --overlapping metrics/overlaps.jsonl "
    "--items metrics/items/v7.jsonl metrics/items/instruct.jsonl "
    "--answers metrics/items/answers-sft.jsonl metrics/items/answers-instruct.jsonl"
)
LN2 = math.log(2)


def words(start: int, count: int = 40) -> str:
    """Return words that occur nowhere else."""
    return " ".join(f"p{number}" for number in range(start, start + count))


def documents(folder: Path, **texts: str) -> None:
    """Write documents with their names as ids."""
    write_documents(folder, [Document(name, "", "", text) for name, text in texts.items()])


def task(name: str, seed: int, instruction: str, reference: str) -> dict[str, Any]:
    """Return a row of the task sets; `r` is the only one of rewriting."""
    kind = "rewriting" if name == "r" else "qa"
    row = {"id": name, "task": kind, "seed": seed, "instruction": instruction}
    return row | {"input": "", "reference": reference}


def score(name: str, seed: int, em: float) -> dict[str, Any]:
    """Return the scores of one answer."""
    row = {"arm": "sft", "task": "rewriting" if name == "r" else "qa", "seed": seed, "id": name}
    return row | {"em": em, "f1": em / 2, "rouge_l": em / 4}


@pytest.fixture
def run(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Write every input; return a function that runs the stage and reads its metrics."""
    monkeypatch.chdir(tmp_path)
    params = yaml.safe_load((project / "params.yaml").read_text("utf-8"))
    params["evaluation"]["max_documents"] = 4
    params["cpt_data"]["documents"] = "reserved"
    Path("params.yaml").write_text(yaml.safe_dump(params), "utf-8")
    # Of four test documents three overlap train: copied, changed at its end, inside another.
    tests = {"copy": words(0), "changed": words(100), "inside": words(200, 8), "own": words(300)}
    # A fifth one, whose id has the highest hash, is beyond evaluation.max_documents.
    documents(Path("clean/lossless/test.parquet"), **tests, beyond13=words(0))
    documents(
        Path("clean/lossless/train.parquet"),
        a=words(0).upper(),
        b=f"{words(100, 37)} {words(900, 3)}",
        c=f"{words(400)} {words(200, 8)} {words(500)}",
    )
    # CPT trains on one of three reserved documents and is judged by another, which is no copy.
    documents(Path("clean/prose/reserved.parquet"), x=words(300), y=words(600), z=words(200, 8))
    Path("cpt").mkdir()
    pq.write_table(pa.table({"id": ["x"]}), "cpt/train.parquet")
    pq.write_table(pa.table({"id": ["y"]}), "cpt/evaluation.parquet")
    prompts = {"train": [words(0, 9), words(20, 9)], "val": [words(0, 9)], "test": [words(40, 9)]}
    for start, (split, texts) in enumerate(prompts.items()):
        answer = words(800 + 10 * start, 9)
        rows = [Example(f"{n}", text, "", answer) for n, text in enumerate(texts)]
        write_examples(Path("sft") / f"{split}.jsonl", rows)
    write_jsonl(
        Path("tasks.jsonl"),
        [
            task("a", 1, words(20, 9), "outra resposta inteiramente nova aqui"),
            task("b", 1, words(60, 9), "nova"),
            task("r", 1, words(80, 9), "nova"),
            task("a", 2, words(20, 9), "outra resposta inteiramente nova aqui"),
            task("c", 2, words(70, 9), "nova"),
        ],
    )
    sizes = {"copy": 1.0, "changed": 2.0, "inside": 3.0, "own": 4.0}
    write_jsonl(
        Path("metrics/items/v7.jsonl"),
        [
            {"id": i, "nats": n * 8 * LN2, "tokens": 1, "bytes": 8, "unk_bytes": int(i == "own")}
            for i, n in sizes.items()
        ],
    )
    # By seed and then by task, as score_answers writes them.
    ems = [("a", 1, 1.0), ("b", 1, 0.0), ("r", 1, 0.0), ("a", 2, 1.0), ("c", 2, 1.0)]
    write_jsonl(Path("metrics/items/answers-sft.jsonl"), [score(*em) for em in ems])
    for name in ("instruct", "answers-instruct"):  # no base is configured
        write_jsonl(Path(f"metrics/items/{name}.jsonl"), [])

    def run() -> Any:
        monkeypatch.setattr(sys, "argv", COMMAND.split())
        check_leakage.main()
        return read_json(Path("metrics/leakage.json"))

    return run


def counts(found: dict[str, Any]) -> list[int]:
    """Return the counts of a comparison."""
    return [found[k] for k in ("items", "exact", "near", "contained", "overlapping", "clean")]


def test_each_set_is_compared_with_what_models_trained_on(run: Callable[[], Any]) -> None:
    metrics = run()
    found = {
        (a, b): counts(v) for a, c in metrics.items() if isinstance(c, dict) for b, v in c.items()
    }
    assert found == {
        ("test", "train"): [4, 1, 2, 3, 3, 1],
        ("test", "cpt_train"): [4, 1, 1, 1, 1, 3],
        ("cpt_eval", "cpt_train"): [1, 0, 0, 0, 0, 1],
        ("sft_val", "sft_train"): [1, 1, 1, 1, 1, 0],
        ("sft_test", "sft_train"): [1, 0, 0, 0, 0, 1],
        ("tasks", "sft_train"): [5, 2, 2, 2, 2, 3],
        ("sft_val", "sft_train_with_answers"): [1, 0, 0, 0, 0, 1],
        ("sft_test", "sft_train_with_answers"): [1, 0, 0, 0, 0, 1],
        ("tasks", "sft_train_with_answers"): [5, 0, 0, 0, 0, 5],
    }
    assert metrics["recall_at_min_similarity"] == pytest.approx(0.99985, abs=1e-5)


def test_bits_per_byte_are_of_the_clean_and_the_overlapping_documents(
    run: Callable[[], Any],
) -> None:
    scores = run()["test"]["train"]["scores"]
    # 1, 2, 3 and 4 bits a byte, and one more where `own` hides one byte of eight.
    expected = {"all": (1 + 2 + 3 + 5) / 4, "clean": 5.0, "overlapping": 2.0}
    assert scores == {"v7": pytest.approx(expected)}


def test_scores_of_answers_are_by_arm_and_task_and_null_for_an_empty_part(
    run: Callable[[], Any],
) -> None:
    prompts, full = (run()["tasks"][name] for name in ("sft_train", "sft_train_with_answers"))
    both = {"em": 1.0, "f1": 0.5, "rouge_l": 0.25}
    assert prompts["scores"]["sft"]["qa"]["overlapping"] == both
    assert prompts["scores"]["sft"]["qa"]["clean"] == {"em": 0.5, "f1": 0.25, "rouge_l": 0.125}
    assert prompts["scores"]["sft"]["qa"]["all"] == {"em": 0.75, "f1": 0.375, "rouge_l": 0.1875}
    assert prompts["scores"]["sft"]["rewriting"]["overlapping"] is None
    assert counts(prompts["tasks"]["qa"]) == [4, 2, 2, 2, 2, 2]
    assert counts(prompts["tasks"]["rewriting"]) == [1, 0, 0, 0, 0, 1]
    assert full["scores"]["sft"]["qa"]["overlapping"] is None
    assert list(full["scores"]) == ["sft"]


@pytest.mark.parametrize("name", ["cpt_eval", "sft_val", "sft_test"])
def test_a_set_without_scores_of_items_says_so(name: str, run: Callable[[], Any]) -> None:
    for found in run()[name].values():
        assert found["scores"] is None
        assert "no score an item" in found["scores_missing"]


def test_the_overlapping_items_are_named_with_their_kinds(run: Callable[[], Any]) -> None:
    run()
    rows = [r for r in read_jsonl(Path("metrics/overlaps.jsonl")) if r["against"] == "train"]
    assert {row["id"]: row["kinds"] for row in rows} == {
        "copy": ["exact", "near", "contained"],
        "changed": ["near", "contained"],
        "inside": ["contained"],
    }
    assert {row["set"] for row in rows} == {"test"}
    assert {row["id"]: row["share"] for row in rows}["changed"] == round(33 / 36, 6)


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("v7", {"id": "other"}, r"metrics/items/v7\.jsonl: scores of other documents"),
        ("answers-sft", score("z", 1, 0.0), "answers to other items than the tasks'"),
    ],
)
def test_scores_of_something_else_are_refused(
    file: str, row: dict[str, Any], message: str, run: Callable[[], Any]
) -> None:
    write_jsonl(Path(f"metrics/items/{file}.jsonl"), [row])
    with pytest.raises(ArtifactError, match=message):
        run()
    assert not Path("metrics/leakage.json").exists()


def test_without_the_documents_of_cpt_the_stage_to_rerun_is_named(run: Callable[[], Any]) -> None:
    Path("cpt/train.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"cpt/train\.parquet: no such file; `dvc repro`"):
        run()
