"""Recompute the published answers' scores, find the prompts in them, and score them without.

The thesis cut each batch of four left-padded prompts at each prompt's own length (its script 10),
so all but the longest prompt of a batch begin with an end of the prompt. Golden items G1 to G5.
"""

import argparse
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from audit.published import Published, tried, write_results
from cordel.evaluation.answers import (
    ARTICLES,
    AS_PUBLISHED,
    CORRECTED,
    LEAK,
    Scorer,
    remove_leak,
    score_answer,
)
from cordel.evaluation.items import gains, summarise
from cordel.evaluation.significance import ResamplingParams
from cordel.runtime.console import run_stage

log = logging.getLogger(Path(__file__).stem)
FOLDER = "versions/trilha2-lora/analysis/eval_trilha2_extrinsic"
SEEDS = {123: "", 456: "_seed456", 789: "_seed789"}  # of the task sets, and their files' suffix
ARMS = ("base", "sft")
TASKS = ("qa", "summarization", "rewriting")
CASES = (("qa", "em"), ("qa", "f1"), ("summarization", "rouge_l"), ("rewriting", "rouge_l"))
PUBLISHED_NAME = {"rouge_l": "rouge_l_f1"}
BATCH = 4  # prompts that the thesis generated at once
RESAMPLING = ResamplingParams(resamples=10_000, confidence=0.95, seed=0)
REQUESTS = re.compile(  # of the thesis' rewriting keywords, those that ask for one
    r"\b(reescreva|reformule|corrija|melhore|par[aá]frase|revise|simplifique|transforme)\b"
)
Row = dict[str, Any]
Scores = dict[str, list[Row]]


def read_rows(published: Published) -> list[Row]:
    """Return the 1,800 published rows (600 a seed), each with its seed and its place."""
    return [
        row | {"seed": seed, "place": place}
        for seed, suffix in SEEDS.items()
        for place, row in enumerate(published.jsonl(f"{FOLDER}_details{suffix}.jsonl"))
    ]


def score(rows: Sequence[Row], scorer: Scorer, *, leaked: bool) -> Scores:
    """Return each arm's scores, in the order of ``rows``, with the leaked prompt or without."""
    return {
        arm: [
            {"task": row["task"], "seed": row["seed"], "id": row["hash"]}
            | score_answer(
                row[f"{arm}_output"] if leaked else remove_leak(row[f"{arm}_output"])[0],
                row["reference"],
                task=row["task"],
                scorer=scorer,
            )
            for row in rows
        ]
        for arm in ARMS
    }


def _intended(text: str) -> str:
    """Return ``text`` as the thesis meant to normalise it: without articles, spaces collapsed."""
    tokens = AS_PUBLISHED.normalise(text).replace("\\", " ").split()
    return " ".join(token for token in tokens if token not in ARTICLES)


# An answer or a reference that is only an article becomes empty here, and scores 0.
INTENDED = Scorer(_intended, _intended, AS_PUBLISHED.rouge)


# --- G1 to G4: what was published -----------------------------------------------------------------


def compare_rows(rows: Sequence[Row], scores: Scores) -> Row:
    """Return how far our scores of each row and arm are from the published ones."""
    differences: dict[str, list[float]] = {"em": [], "f1": [], "rouge_l": []}
    for arm in ARMS:
        for row, ours in zip(rows, scores[arm], strict=True):
            for name, values in differences.items():
                theirs = row["metrics"][arm].get(PUBLISHED_NAME.get(name, name))
                if theirs is not None:
                    values.append(abs(ours[name] - theirs))
    return {
        "rows": len(rows) * len(ARMS),
        "values": {name: len(values) for name, values in differences.items()},
        "largest_difference": {
            name: max(values, default=0.0) for name, values in differences.items()
        },
        "differing": sum(value != 0 for values in differences.values() for value in values),
    }


def compare_means(published: Published, scores: Scores) -> Row:
    """Return each seed's mean, the mean over seeds and its spread, published and recomputed."""
    report = published.json(f"{FOLDER}_multiseed.json")
    of_seed = {seed: published.json(f"{FOLDER}{suffix}.json") for seed, suffix in SEEDS.items()}
    found: Row = {}
    for task, metric in CASES:
        name = PUBLISHED_NAME.get(metric, metric)
        for arm in ARMS:
            ours = summarise(scores[arm], replace(RESAMPLING, resamples=1))[task][metric]
            theirs = report["aggregate"][task][arm][name]
            values = {"mean": (theirs["mean"], ours["mean"]), "sd": (theirs["std"], ours["sd"])}
            for seed, run in of_seed.items():
                value = run["tasks"][task]["metrics"][arm][name]
                values[str(seed)] = (value, ours["per_seed"][str(seed)])
            found.setdefault(task, {}).setdefault(metric, {})[arm] = {
                key: {"published": a, "recomputed": b, "difference": abs(a - b)}
                for key, (a, b) in values.items()
            }
    return found


# --- G5: the prompt in the answer -----------------------------------------------------------------


def count_leaks(rows: Sequence[Row]) -> Row:
    """Return how many of the 200 outputs of each seed, task and arm hold a part of their prompt."""
    return {
        str(seed): {
            task: {
                arm: sum(
                    remove_leak(row[f"{arm}_output"])[1]
                    for row in rows
                    if row["seed"] == seed and row["task"] == task
                )
                for arm in ARMS
            }
            for task in TASKS
        }
        for seed in SEEDS
    }


def explain_leaks(rows: Sequence[Row]) -> Row:
    """Return the evidence for the cause: whose text leaked, and which row of a batch is clean."""
    whose: Counter[str] = Counter()
    clean_in_batch: Counter[int] = Counter()
    longest_clean = same_in_both = 0
    for seed in SEEDS:
        for task in TASKS:
            of_set = [row for row in rows if row["seed"] == seed and row["task"] == task]
            for start in range(0, len(of_set), BATCH):
                batch = of_set[start : start + BATCH]
                clean = [not remove_leak(row["base_output"])[1] for row in batch]
                clean_in_batch[sum(clean)] += 1
                lengths = [len(_message(row)) for row in batch]
                longest_clean += clean[lengths.index(max(lengths))]
    for row in rows:
        before, mark, _ = row["base_output"].partition(LEAK)
        if mark:
            whose[_whose(before, _message(row))] += 1
            same_in_both += row["sft_output"].startswith(before + mark)
    return {
        "leaking_rows": sum(whose.values()),
        "of_rows": len(rows),
        "leaked_text": dict(whose),
        "same_text_in_both_arms": same_in_both,
        "batches": sum(clean_in_batch.values()),
        "clean_rows_in_a_batch": {str(n): count for n, count in sorted(clean_in_batch.items())},
        "batches_where_the_longest_prompt_is_clean": longest_clean,
    }


def _message(row: Row) -> str:
    """Return the user's message as the thesis wrote it into the chat template (section 5.2)."""
    return row["instruction"] + (f"\n\nEntrada:\n{row['input']}" if row["input"] else "")


def _whose(leaked: str, message: str) -> str:
    """Tell what of a row's own prompt stands before its answer; spaces do not count.

    The decoder drops spaces before punctuation, and a cut inside a character leaves U+FFFD.
    """
    found, own = ("".join(text.replace("\ufffd", "").split()) for text in (leaked, message))
    if own.endswith(found):
        return "end_of_own_message"
    return "template_and_own_message" if found.endswith(own) else "other"


# --- the corrected table (section 5.7) ------------------------------------------------------------


def corrected_table(rows: Sequence[Row], scorer: Scorer) -> Row:
    """Return, for each task and metric, both arms without the leak and what SFT gains.

    The gain's ``ci_rows`` takes each of the 600 rows as an item of its own; ``ci`` resamples an
    item that several seeds drew as one.
    """
    scores = score(rows, scorer, leaked=False)
    numbered = {
        arm: [row | {"id": str(place)} for place, row in enumerate(of_arm)]
        for arm, of_arm in scores.items()
    }
    means = {arm: summarise(scores[arm], RESAMPLING) for arm in ARMS}
    by_item = gains(scores["base"], scores["sft"], RESAMPLING)
    by_row = gains(numbered["base"], numbered["sft"], RESAMPLING)
    found: Row = {}
    for task, metric in CASES:
        gain = by_item[task][metric]
        found.setdefault(task, {})[metric] = {
            arm: {key: means[arm][task][metric][key] for key in ("per_seed", "mean", "sd")}
            for arm in ARMS
        } | {"gain": gain | {"ci_rows": by_row[task][metric]["ci"]}}
    return found


def rewriting_parts(rows: Sequence[Row]) -> Row:
    """Return the corrected rewriting score of rows that ask for it and of those that do not.

    A third of the set matched only because "revisão" also translates "review" (section 5.6).
    """
    scores = score(rows, AS_PUBLISHED, leaked=False)
    parts: dict[str, list[int]] = {"asked": [], "review_only": [], "other": []}
    for place, row in enumerate(rows):
        if row["task"] == "rewriting":
            parts[_rewriting_part(row)].append(place)
    return {
        part: {"rows": len(places)}
        | {arm: sum(scores[arm][i]["rouge_l"] for i in places) / len(places) for arm in ARMS}
        for part, places in parts.items()
    }


def _rewriting_part(row: Row) -> str:
    text = f"{row['instruction']}\n{row['input']}".lower()
    if REQUESTS.search(text):
        return "asked" if len(row["reference"].split()) >= 3 else "other"
    return "review_only" if re.search(r"\brevisão\b", text) else "other"


def emptied_references(rows: Sequence[Row]) -> int:
    """Return how many QA references are nothing but an article, as the option "A" is."""
    return sum(
        row["task"] == "qa"
        and bool(AS_PUBLISHED.normalise(row["reference"]))
        and not INTENDED.normalise(row["reference"])
        for row in rows
    )


def examples(rows: Sequence[Row]) -> list[Row]:
    """Return the thesis' examples 3 to 5 (seed 123) and whether their published outputs leak."""
    starts = {
        "3": "Eu quero comprar uma guitarra elétrica",
        "4": "Encontre um artigo de notícias sobre o governo local",
        "5": "Descubra qual das seguintes frases é escrita em voz passiva",
    }
    return [
        {
            "example": number,
            "task": row["task"],
            "leaks": {arm: remove_leak(row[f"{arm}_output"])[1] for arm in ARMS},
        }
        for number, start in starts.items()
        for row in rows
        if row["seed"] == min(SEEDS) and row["instruction"].startswith(start)
    ]


def main() -> None:
    """Write all of it as one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    published = Published(args.published)

    def checked() -> Row:
        rows = read_rows(published)
        as_published = score(rows, AS_PUBLISHED, leaked=True)
        parts: dict[str, Callable[[], Any]] = {
            "rows": lambda: compare_rows(rows, as_published),
            "means": lambda: compare_means(published, as_published),
            "leaks": lambda: count_leaks(rows),
            "cause": lambda: explain_leaks(rows),
            "corrected": lambda: corrected_table(rows, AS_PUBLISHED),
            "intended": lambda: corrected_table(rows, INTENDED),
            "articles_kept": lambda: corrected_table(rows, CORRECTED),
            "rewriting": lambda: rewriting_parts(rows),
            "emptied_references": lambda: emptied_references(rows),
            "examples": lambda: examples(rows),
        }
        return {name: tried(part) for name, part in parts.items()}

    found: Any = tried(checked)
    write_results(args.out, found)
    if "rows" in found:
        log.info("%d rows, largest differences %s", found["rows"]["rows"], found["rows"])
        log.info("%d of %d rows leak", found["cause"]["leaking_rows"], found["cause"]["of_rows"])


if __name__ == "__main__":
    run_stage(main)
