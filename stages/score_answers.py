"""Score the answers of all arms, the trivial baselines and the gains between arms."""

import argparse
import logging
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from cordel.evaluation.answers import (
    BASELINES,
    baseline_answer,
    score_answer,
)
from cordel.evaluation.items import METRICS, gains, summarise, with_holm
from cordel.evaluation.significance import ResamplingParams
from cordel.runtime.console import run_stage
from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import new_directory, read_jsonl, rounded, write_json, write_jsonl
from cordel.runtime.params import read_params

log = logging.getLogger(Path(__file__).stem)
# What each gain answers: SFT, CPT, SFT after CPT, CPT before SFT, a request alone, the thesis' own.
GAINS = (
    ("sft", "base"),
    ("cpt", "base"),
    ("cpt_sft", "base"),
    ("cpt_sft", "sft"),
    ("base_brief", "base"),
    ("sft", "base_brief"),
    ("sft", "copy"),
    ("instruct_sft", "instruct"),
    ("instruct_brief", "instruct"),
)
Row = dict[str, Any]


def main() -> None:
    """Write metrics/answers.json, the score of each item, and every answer with its scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=Path, nargs="+", required=True)
    parser.add_argument("--metrics", type=Path, required=True)
    parser.add_argument("--items", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    params = read_params("resampling", ResamplingParams)
    rows = [row for path in args.answers for row in read_jsonl(path)]
    if not rows:
        raise ArtifactError("no arm has an answer; is base_models.base.source none?")
    arms = {name: scored(group) for name, group in groupby(rows, key=lambda row: row["arm"])}
    asked = next(iter(arms.values()))
    for kind in BASELINES:
        arms[kind] = scored(
            row
            | {"arm": kind}
            | {"answer": baseline_answer(kind, instruction=row["instruction"], input=row["input"])}
            for row in asked
        )
    metrics: dict[str, Any] = {name: summarise(group, params) for name, group in arms.items()}
    metrics["gains"] = with_holm(
        {
            f"{a}-{b}": gains(arms[b], arms[a], params, names=(b, a))
            for a, b in GAINS
            if a in arms and b in arms
        }
    )
    metrics["too_long"] = {
        name: sum(row["too_long"] for row in group)
        for name, group in arms.items()
        if name not in BASELINES
    }
    write_json(args.metrics, rounded(metrics))
    for path in args.items:
        name = path.stem.removeprefix("answers-")
        of_arm = [row for a, group in arms.items() if a in (name, f"{name}_brief") for row in group]
        write_jsonl(path, [item(row) for row in of_arm])
    with new_directory(args.out) as out:
        for name, group in arms.items():
            if name not in BASELINES:
                write_jsonl(out / f"{name}.jsonl", [rounded(row) for row in group])
    for name in arms:
        shown = ", ".join(
            f"{task} {s['f1' if task == 'qa' else 'rouge_l']['mean']:.3f}"
            for task, s in metrics[name].items()
        )
        log.info("%s: %s", name, shown)


def scored(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with their scores."""
    return [row | score_answer(row["answer"], row["reference"], task=row["task"]) for row in rows]


def item(row: Row) -> Row:
    """Return what is kept under git of one item: no text, only who, which and how good."""
    kept = ("arm", "task", "seed", "id", "too_long", "ended", *METRICS)
    return rounded({name: row[name] for name in kept})


if __name__ == "__main__":
    run_stage(main)
