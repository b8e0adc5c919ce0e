"""Look for each evaluation set in what models trained on; score its clean and overlapping parts.

Scores are of every run and arm, whether it saw those training texts or not: one that did not is the
control. What a model of the hub read before it came here is not known and not looked at.
"""

import argparse
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from cordel.corpus.documents import Document, EvaluationParams, read_documents
from cordel.corpus.instructions import read_written
from cordel.corpus.leakage import (
    LeakageParams,
    Overlap,
    by_part,
    find_overlaps,
    lsh_recall,
    summarise_overlaps,
)
from cordel.evaluation.likelihood import Likelihood, total
from cordel.runtime.console import progress, run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import read_jsonl, rounded, write_json, write_jsonl
from cordel.runtime.params import read_params, read_section
from cordel.runtime.tables import read_rows

log = logging.getLogger(Path(__file__).stem)
IDS = pa.schema([("id", pa.string())])
SCORES = ("em", "f1", "rouge_l")
NO_SCORES = "only sums over the whole set are written, no score an item"
Row = dict[str, Any]
Overlaps = Mapping[str, Overlap]
Texts = Callable[[], Iterator[Document]]


def main() -> None:
    """Write metrics/leakage.json, and which items overlap."""
    args = arguments()
    params = read_params("leakage", LeakageParams)
    limit = read_params("evaluation", EvaluationParams).max_documents
    drawn_from = read_section("cpt_data.documents", kind=Literal["reserved", "train"])
    prose = args.prose / f"{drawn_from}.parquet"
    found: dict[tuple[str, str], Overlaps] = {}

    def look(name: str, against: str, items: Iterable[Document], train: Texts) -> None:
        label = f"{name} in {against}"
        texts = progress(train(), label=label, unit="texts")
        found[name, against] = find_overlaps(items, texts, params)
        counts = summarise_overlaps(found[name, against])
        log.info("%s: %s", label, ", ".join(f"{k} {v}" for k, v in rounded(counts).items()))

    test = partial(read_documents, args.clean / "test.parquet", limit=limit)
    look("test", "train", test(), partial(read_documents, args.clean / "train.parquet"))
    cpt_train = partial(chosen, prose, args.documents / "train.parquet")
    look("test", "cpt_train", test(), cpt_train)
    look("cpt_eval", "cpt_train", chosen(prose, args.documents / "evaluation.parquet"), cpt_train)
    for against, with_answer in (("sft_train", False), ("sft_train_with_answers", True)):
        trained_on = partial(examples, args.examples / "train.jsonl", with_answer=with_answer)
        for split in ("val", "test"):
            path = args.examples / f"{split}.jsonl"
            look(f"sft_{split}", against, examples(path, with_answer=with_answer), trained_on)
        look("tasks", against, tasks(args.tasks, with_answer=with_answer), trained_on)

    recall = lsh_recall(params.min_similarity, params)
    log.info(
        "a pair of similarity %g is looked at with probability %.4f", params.min_similarity, recall
    )
    metrics: dict[str, Any] = {"recall_at_min_similarity": recall}
    for (name, against), overlaps in found.items():
        metrics.setdefault(name, {})[against] = summarise_overlaps(overlaps) | {"scores": None}
        if name == "test":
            metrics[name][against]["scores"] = bits_per_byte(args.items, overlaps)
        elif name == "tasks":
            metrics[name][against] |= answer_scores(args.answers, overlaps)
        else:
            metrics[name][against]["scores_missing"] = NO_SCORES
    write_json(args.metrics, rounded(metrics))
    write_jsonl(args.overlapping, overlapping(found))


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", type=Path, required=True, help="folder of the lossless recipe")
    parser.add_argument("--prose", type=Path, required=True, help="folder that CPT draws from")
    parser.add_argument("--documents", type=Path, required=True, help="of prepare_cpt")
    parser.add_argument("--examples", type=Path, required=True, help="of prepare_sft")
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--items", type=Path, nargs="+", required=True, help="scores a document")
    parser.add_argument("--answers", type=Path, nargs="+", required=True, help="scores an answer")
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--overlapping", type=Path, required=True)
    return parser.parse_args()


# --- Texts ----------------------------------------------------------------------------------------


def chosen(source: Path, encoded: Path) -> Iterator[Document]:
    """Yield the documents of ``source`` that ``encoded``, a file of prepare_cpt, holds as ids."""
    ids = {row["id"] for row in read_rows(encoded, IDS, maker="prepare_cpt")}
    return (document for document in read_documents(source) if document.id in ids)


def examples(path: Path, *, with_answer: bool) -> Iterator[Document]:
    """Yield the prompts of instruction examples, or prompts with answers."""
    for e in read_written(path):
        yield text_of(e.id, e.instruction, e.input, e.output if with_answer else "")


def tasks(path: Path, *, with_answer: bool) -> Iterator[Document]:
    """Yield the prompts of the task sets, or prompts with references."""
    for row in read_jsonl(path):
        reference = row["reference"] if with_answer else ""
        yield text_of(item_id(row), row["instruction"], row["input"], reference)


def text_of(name: str, *texts: str) -> Document:
    """Return the texts as one document."""
    return Document(name, "", "", "\n".join(texts))


def item_id(row: Row) -> str:
    """Return what names an item of the task sets, of which two seeds may hold the same."""
    return f"{row['task']}/{row['seed']}/{row['id']}"


# --- Scores ---------------------------------------------------------------------------------------


def bits_per_byte(paths: list[Path], overlaps: Overlaps) -> dict[str, Any]:
    """Return bits per byte of each run and arm, in parts; one without scores is left out."""
    scores = {}
    for path in paths:
        rows = list(read_jsonl(path))
        if not rows:
            continue
        if {row["id"] for row in rows} != overlaps.keys():
            raise ArtifactError(f"{path}: scores of other documents than the test set; dvc repro")
        scores[path.stem] = by_part(rows, lambda row: row["id"], bits_of, overlaps)
    return scores


def bits_of(rows: Iterable[Row]) -> float:
    """Return bits per byte of documents together."""
    keys = ("nats", "tokens", "bytes", "unk_bytes")
    return total([Likelihood(correct=0, **{k: row[k] for k in keys}) for row in rows]).bits_per_byte


def answer_scores(paths: list[Path], overlaps: Overlaps) -> dict[str, Any]:
    """Return counts by task, and mean scores of each arm and task, in parts, over items."""
    by_task = {
        task: summarise_overlaps({i: overlaps[i] for i in ids})
        for task, ids in groupby(sorted(overlaps), key=lambda i: i.split("/")[0])
    }
    rows = [row for path in paths for row in read_jsonl(path)]
    if any(item_id(row) not in overlaps for row in rows):
        raise ArtifactError(f"{paths[0].parent}: answers to other items than the tasks'; dvc repro")
    scores: dict[str, Any] = {}
    for (arm, task), group in groupby(sorted(rows, key=arm_and_task), key=arm_and_task):
        scores.setdefault(arm, {})[task] = by_part(list(group), item_id, means_of, overlaps)
    return {"tasks": by_task, "scores": scores}


def arm_and_task(row: Row) -> tuple[str, str]:
    """Return whose answer it is, and to what kind of prompt."""
    return row["arm"], row["task"]


def means_of(rows: Iterable[Row]) -> dict[str, float]:
    """Return the mean of each score."""
    rows = list(rows)
    return {name: sum(row[name] for row in rows) / len(rows) for name in SCORES}


def overlapping(found: Mapping[tuple[str, str], Overlaps]) -> Iterator[Row]:
    """Yield one row an overlapping item: where it was found, how, and how much of it."""
    for (name, against), overlaps in found.items():
        for item, o in overlaps.items():
            if o.kinds:
                row = {"set": name, "against": against, "id": item, "kinds": o.kinds}
                yield rounded(row | {"similarity": o.similarity, "share": o.share})


if __name__ == "__main__":
    run_stage(main)
