"""Answers: scores by hand, and the published figures to the last digit."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cordel.evaluation.answers import (
    AS_PUBLISHED,
    CORRECTED,
    Scorer,
    baseline_answer,
    remove_leak,
    score_answer,
)
from cordel.evaluation.items import gains, summarise
from cordel.evaluation.significance import ResamplingParams

PARAMS = ResamplingParams(resamples=2000, confidence=0.95, seed=42)
SCORERS = {"published": AS_PUBLISHED, "corrected": CORRECTED}
TASKS = ("qa", "summarization", "rewriting")


def scores(answer: str, reference: str, task: str, scorer: Scorer) -> tuple[float, float, float]:
    """Return exact match, F1 and ROUGE-L."""
    found = score_answer(answer, reference, task=task, scorer=scorer)
    return found["em"], found["f1"], found["rouge_l"]


# --- one answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reference", "published", "corrected"),
    [
        # The comma leaves a second space, so as published these differ.
        ("Sim, é verdade.", "sim é verdade", (0, 1, 1), (1, 1, 1)),
        ("dois\tmil", "dois mil", (1, 1, 1), (1, 1, 1)),  # a tab is one space to both
        ("AVÓ", "avo", (1, 1, 1), (1, 1, 1)),
        # Tokens a, terra and terra: 2 x 1 / (2 + 1). ROUGE-L keeps the article in both.
        ("A Terra", "terra", (0, 2 / 3, 2 / 3), (1, 1, 2 / 3)),
        ("umas casas", "uns casas", (0, 1 / 2, 1 / 2), (1, 1, 1 / 2)),
        ("casas", "casa", (0, 0, 0), (0, 0, 0)),  # no stemmer
        # An answer that is only an article stays, and is not any other article.
        ("A", "a)", (1, 1, 1), (1, 1, 1)),
        ("A", "O", (0, 0, 0), (0, 0, 0)),
        ("o a", "A", (0, 2 / 3, 2 / 3), (0, 2 / 3, 2 / 3)),
        # Shared: gato once and cão once, of 3 + 3.
        ("gato gato cão", "gato cão cão", (0, 2 / 3, 2 / 3), (0, 2 / 3, 2 / 3)),
        # F1 ignores order; the longest common subsequence is one of two tokens.
        ("cão gato", "gato cão", (0, 1, 1 / 2), (0, 1, 1 / 2)),
        (r"\frac", "frac", (0, 0, 0), (1, 1, 1)),
        ("R$ 1.349,00", "r 1 349 00", (0, 1, 1), (1, 1, 1)),
    ],
)
def test_scores_by_hand(
    answer: str,
    reference: str,
    published: tuple[float, float, float],
    corrected: tuple[float, float, float],
) -> None:
    assert scores(answer, reference, "qa", AS_PUBLISHED) == pytest.approx(published)
    assert scores(answer, reference, "qa", CORRECTED) == pytest.approx(corrected)


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("qa", (1, 1, 1)),
        # lisboa porque sim against lisboa capital: 2 x 1 / (3 + 2).
        ("summarization", (0, 0.4, 0.4)),
        ("rewriting", (0, 0.4, 0.4)),
    ],
)
def test_only_questions_look_at_the_first_line(
    task: str, expected: tuple[float, float, float], scorer: Scorer
) -> None:
    answer, reference = "\n  Lisboa.\n\nPorque sim", " \nLisboa\nCapital"
    assert scores(answer, reference, task, scorer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Sim, é verdade: 3.5\nPorque", 6), ("", 0), ("…", 0), ("guarda-chuva", 2)],
)
def test_words_are_those_of_the_whole_answer(answer: str, expected: int) -> None:
    # sim é verdade 3 5 porque
    assert score_answer(answer, "x", task="qa")["words"] == expected


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("answer", "reference"), [("", "sim"), (" \n", "sim"), ("?!", "sim"), ("sim", ""), ("", "")]
)
def test_where_nothing_is_left_of_a_text_the_scores_are_zero(
    answer: str, reference: str, task: str, scorer: Scorer
) -> None:
    assert scores(answer, reference, task, scorer) == (0, 0, 0)


TEXTS = st.one_of(st.text(), st.text(alphabet="aoçãé BD1.,\\\n"))


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
@pytest.mark.parametrize("task", ["qa", "rewriting"])
@settings(max_examples=60, deadline=None)
@given(answer=TEXTS, reference=TEXTS)
def test_scores_are_shares_and_the_same_both_ways(
    answer: str, reference: str, task: str, scorer: Scorer
) -> None:
    found = scores(answer, reference, task, scorer)
    assert all(0 <= score <= 1 for score in found)
    assert found == pytest.approx(scores(reference, answer, task, scorer))


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_a_text_is_its_own_best_answer(text: str, scorer: Scorer) -> None:
    assume(re.search("[a-zA-Z0-9]", text))
    assert scores(text, text, "rewriting", scorer) == (1, 1, 1)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("o fim da pergunta?assistant\n\nSim.", ("Sim.", True)),
        ("assistant\n\nSim.", ("Sim.", True)),
        ("a?assistant\n\nb assistant\n\nc", ("b assistant\n\nc", True)),  # the first one
        ("Sim, assistant\nnão", ("Sim, assistant\nnão", False)),
        ("", ("", False)),
    ],
)
def test_a_leak_ends_where_the_template_does(output: str, expected: tuple[str, bool]) -> None:
    assert remove_leak(output) == expected


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("copy", " Choveu. Fez frio.\n", " Choveu. Fez frio.\n"),
        ("empty", "Choveu. Fez frio.", ""),
        ("lead1", "Choveu. Fez frio.", "Choveu."),
        ("lead1", "Choveu", "Choveu"),
        ("lead1", "\n\n  Choveu muito \r\nFez frio.", "Choveu muito"),  # a line is a sentence
        ("lead1", "Pagou R$ 3.500 à vista? Não.", "Pagou R$ 3.500 à vista?"),
        ("lead1", "“Choveu!” Fez frio.", "“Choveu!”"),
        ("lead1", "Choveu... Fez frio.", "Choveu..."),
        ("lead1", "---\n... e choveu. Fez frio.", "... e choveu."),  # a sentence has a word
        ("lead1", "?!", ""),
    ],
)
def test_baselines_by_hand(kind: Any, text: str, expected: str) -> None:
    assert baseline_answer(kind, instruction="Resuma. Já.", input=text) == expected


@pytest.mark.parametrize(("kind", "expected"), [("copy", "Diga. Já."), ("lead1", "Diga.")])
def test_a_baseline_without_input_reads_the_instruction(kind: Any, expected: str) -> None:
    assert baseline_answer(kind, instruction="Diga. Já.", input=" \n") == expected


def test_an_unknown_baseline_is_named() -> None:
    message = "baseline is 'lead3', expected one of copy, lead1, empty"
    with pytest.raises(ValueError, match=message):
        baseline_answer("lead3", instruction="", input="")  # pyright: ignore[reportArgumentType]


# --- the published answers (thesis.md, rows G1 to G5, and the corrected table of 5.7) -------------

SUFFIX = {123: "", 456: "_seed456", 789: "_seed789"}
PUBLISHED_METRICS = {
    "qa": {"em": "em", "f1": "f1"},
    "summarization": {"rouge_l_f1": "rouge_l"},
    "rewriting": {"rouge_l_f1": "rouge_l"},
}
CASES = [(task, name) for task, names in PUBLISHED_METRICS.items() for name in names]
ARMS = pytest.mark.parametrize("arm", ["base", "sft"])
Published = dict[str, Any]
Scored = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    """Return where the published answers are."""
    return shared / "data" / "golden" / "trilha2"


@pytest.fixture(scope="module")
def published(folder: Path) -> list[Published]:
    """Return the 1,800 published rows, each with its seed."""
    return [
        json.loads(line) | {"seed": seed}
        for seed, suffix in SUFFIX.items()
        for line in (folder / f"eval_trilha2_extrinsic_details{suffix}.jsonl").open("rb")
    ]


@pytest.fixture(scope="module")
def scored(published: list[Published]) -> Scored:
    """Return a function that scores an arm's outputs, as they are or without the leak."""
    known: dict[tuple[str, str, bool], list[dict[str, Any]]] = {}

    def scored(arm: str, scorer: str, *, leak: bool) -> list[dict[str, Any]]:
        if (arm, scorer, leak) not in known:
            known[arm, scorer, leak] = [
                {"task": item["task"], "seed": item["seed"], "id": item["hash"]}
                | score_answer(
                    item[f"{arm}_output"] if leak else remove_leak(item[f"{arm}_output"])[0],
                    item["reference"],
                    task=item["task"],
                    scorer=SCORERS[scorer],
                )
                for item in published
            ]
        return known[arm, scorer, leak]

    return scored


@pytest.mark.slow
@pytest.mark.shared
@ARMS
@pytest.mark.parametrize(("task", "name"), CASES)
def test_the_published_scores_of_each_answer(
    task: str, name: str, arm: str, published: list[Published], scored: Scored
) -> None:
    both = zip(published, scored(arm, "published", leak=True), strict=True)
    pairs = [
        (ours[PUBLISHED_METRICS[task][name]], theirs["metrics"][arm][name])
        for theirs, ours in both
        if theirs["task"] == task
    ]
    assert len(pairs) == 600
    assert max(abs(ours - theirs) for ours, theirs in pairs) < 1e-12


@pytest.mark.shared
@ARMS
@pytest.mark.parametrize(("task", "name"), CASES)
def test_the_published_means_and_their_spread(
    task: str, name: str, arm: str, folder: Path, scored: Scored
) -> None:
    found = summarise(scored(arm, "published", leak=True), PARAMS)[task]
    found = found[PUBLISHED_METRICS[task][name]]
    report = json.loads((folder / "eval_trilha2_extrinsic_multiseed.json").read_bytes())
    seeds = {str(run["seed"]): run[task][arm][name] for run in report["runs"]}
    assert found["per_seed"] == pytest.approx(seeds, abs=1e-12)
    expected = report["aggregate"][task][arm][name]
    assert found["mean"] == pytest.approx(expected["mean"], abs=1e-12)
    assert found["sd"] == pytest.approx(expected["std"], abs=1e-12)


@pytest.mark.shared
@ARMS
@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("qa", [148, 149, 149]),
        ("summarization", [149, 149, 149]),
        ("rewriting", [145, 147, 150]),
    ],
)
def test_three_published_outputs_of_four_hold_their_prompt(
    task: str, expected: list[int], arm: str, published: list[Published]
) -> None:
    counts = dict.fromkeys(SUFFIX, 0)
    for item in published:
        counts[item["seed"]] += item["task"] == task and remove_leak(item[f"{arm}_output"])[1]
    assert list(counts.values()) == expected


@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "metric", "arm", "per_seed", "mean", "sd"),
    [
        ("qa", "em", "base", [0.080, 0.085, 0.075], 0.0800, 0.0050),
        ("qa", "em", "sft", [0.235, 0.225, 0.310], 0.2567, 0.0465),
        ("qa", "f1", "base", [0.1582, 0.1767, 0.1532], 0.1627, 0.0124),
        ("qa", "f1", "sft", [0.3619, 0.3610, 0.4216], 0.3815, 0.0348),
        ("summarization", "rouge_l", "base", [0.1821, 0.1582, 0.1822], 0.1742, 0.0138),
        ("summarization", "rouge_l", "sft", [0.2883, 0.2571, 0.3072], 0.2842, 0.0253),
        ("rewriting", "rouge_l", "base", [0.2251, 0.2660, 0.2692], 0.2534, 0.0246),
        ("rewriting", "rouge_l", "sft", [0.5307, 0.5949, 0.5651], 0.5636, 0.0321),
    ],
)
def test_the_published_answers_without_their_prompts(
    task: str,
    metric: str,
    arm: str,
    per_seed: list[float],
    mean: float,
    sd: float,
    scored: Scored,
) -> None:
    found = summarise(scored(arm, "published", leak=False), PARAMS)[task][metric]
    assert list(found["per_seed"].values()) == pytest.approx(per_seed, abs=6e-5)
    assert (found["mean"], found["sd"]) == pytest.approx((mean, sd), abs=6e-5)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("metric", "arm", "expected"),
    [
        ("em", "base", 0.0800),
        ("em", "sft", 0.2583),
        ("f1", "base", 0.1599),
        ("f1", "sft", 0.3784),
    ],
)
def test_the_published_answers_as_the_normaliser_was_meant(
    metric: str, arm: str, expected: float, scored: Scored
) -> None:
    found = summarise(scored(arm, "corrected", leak=False), PARAMS)["qa"][metric]
    assert found["mean"] == pytest.approx(expected, abs=6e-5)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "metric", "mean", "low", "high"),
    [
        ("qa", "em", 0.177, 0.145, 0.210),
        ("qa", "f1", 0.219, 0.182, 0.251),
        ("summarization", "rouge_l", 0.110, 0.090, 0.134),
        ("rewriting", "rouge_l", 0.310, 0.279, 0.340),
    ],
)
def test_the_gains_of_the_corrected_table(
    task: str, metric: str, mean: float, low: float, high: float, scored: Scored
) -> None:
    # The table took each of the 600 rows as an item of its own and few resamples: its bounds move
    # by 0.004 from one seed of the resampling to the next.
    before, after = (
        [
            item | {"id": str(place)}
            for place, item in enumerate(scored(arm, "published", leak=False))
        ]
        for arm in ("base", "sft")
    )
    found = gains(before, after, replace(PARAMS, resamples=10_000))[task][metric]
    assert found["mean"] == pytest.approx(mean, abs=6e-4)
    assert found["ci"] == pytest.approx([low, high], abs=0.005)


@pytest.mark.shared
@pytest.mark.parametrize(("task", "name"), CASES)
def test_intervals_agree_with_the_normal_approximation_for_clusters(
    task: str, name: str, scored: Scored
) -> None:
    # The standard error of a mean whose rows are correlated within items (Liang and Zeger 1986):
    # the root of the summed squares of each item's summed deviations, over the number of rows.
    metric = PUBLISHED_METRICS[task][name]
    base, sft = (scored(arm, "published", leak=False) for arm in ("base", "sft"))
    found = gains(base, sft, replace(PARAMS, resamples=10_000))[task][metric]
    deviations: dict[str, float] = {}
    for before, after in zip(base, sft, strict=True):
        if before["task"] == task:
            deviation = after[metric] - before[metric] - found["mean"]
            deviations[before["id"]] = deviations.get(before["id"], 0.0) + deviation
    half = 1.96 * math.sqrt(sum(value**2 for value in deviations.values())) / 600
    bounds = [found["mean"] - half, found["mean"] + half]
    assert found["ci"] == pytest.approx(bounds, abs=0.002)
