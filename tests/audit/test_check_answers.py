"""The published answers: zero difference as they are, and what they say without their prompts."""

import json
from pathlib import Path
from typing import Any

import pytest

from audit.check_answers import (
    INTENDED,
    SEEDS,
    compare_means,
    compare_rows,
    corrected_table,
    count_leaks,
    emptied_references,
    examples,
    explain_leaks,
    read_rows,
    rewriting_parts,
    score,
)
from audit.published import NotAtHandError, Published
from cordel.evaluation.answers import AS_PUBLISHED, CORRECTED


def row(message: str, *, answer: str = "Sim", leaked: str = "", **changes: Any) -> dict[str, Any]:
    text = f"{leaked}assistant\n\n{answer}" if leaked else answer
    own = {"instruction": message, "input": "", "reference": "Sim", "hash": message}
    return own | {"task": "qa", "seed": 123, "base_output": text, "sft_output": text} | changes


def scores_of(value: float) -> dict[str, dict[str, float]]:
    return {arm: {"em": value, "f1": value} for arm in ("base", "sft")}


def test_a_row_that_scores_otherwise_than_published_is_counted():
    rows = [row("a", metrics=scores_of(1.0)), row("b", metrics=scores_of(0.75))]

    found = compare_rows(rows, score(rows, AS_PUBLISHED, leaked=True))
    assert found["differing"] == 4  # em and f1 of both arms
    assert found["largest_difference"]["f1"] == 0.25


def test_the_longest_prompt_of_a_batch_is_clean_and_the_leaked_text_is_each_row_s_own():
    rows = [
        row("Qual é a capital do país?"),
        row("Onde fica?", leaked="user\n\nOnde fica?"),
        row("Quem foi ele, afinal?", leaked="ele , afinal?"),
        row("E ela?", leaked="user\n\nOnde fica?"),
    ]

    found = explain_leaks(rows)
    assert found["leaked_text"] == {
        "template_and_own_message": 1,
        "end_of_own_message": 1,
        "other": 1,
    }
    assert found["clean_rows_in_a_batch"] == {"1": 1}
    assert found["batches_where_the_longest_prompt_is_clean"] == 1
    assert count_leaks(rows)["123"]["qa"] == {"base": 3, "sft": 3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A  casa, é minha.", "casa e minha"), ("A", ""), ("\\frac uns", "frac")],
)
def test_the_intended_normaliser(text: str, expected: str):
    assert INTENDED.normalise(text) == expected


def test_a_missing_seed_is_named(tmp_path: Path):
    with pytest.raises(NotAtHandError, match=r"extrinsic_details\.jsonl"):
        read_rows(Published(tmp_path))


# --- the published files --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(published: Published) -> list[dict[str, Any]]:
    return read_rows(published)


@pytest.fixture(scope="module")
def as_published(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return score(rows, AS_PUBLISHED, leaked=True)


@pytest.mark.shared
def test_no_published_score_differs(rows: Any, as_published: Any):
    found = compare_rows(rows, as_published)
    assert found["rows"] == 3600
    assert found["values"] == {"em": 1200, "f1": 1200, "rouge_l": 2400}
    assert found["differing"] == 0


@pytest.mark.shared
def test_no_published_mean_differs(published: Published, as_published: Any):
    means = compare_means(published, as_published)
    differences = [
        value["difference"]
        for metrics in means.values()
        for arms in metrics.values()
        for values in arms.values()
        for value in values.values()
    ]
    assert len(differences) == 4 * 2 * 5
    assert max(differences) < 1e-15


@pytest.mark.shared
def test_one_changed_score_is_found(rows: list[dict[str, Any]], as_published: Any):
    changed = json.loads(json.dumps(rows))
    changed[700]["metrics"]["sft"] = {
        name: value + 1e-9 for name, value in changed[700]["metrics"]["sft"].items()
    }
    assert compare_rows(changed, as_published)["differing"] == len(changed[700]["metrics"]["sft"])


@pytest.mark.shared
def test_the_leak_counts(rows: list[dict[str, Any]]):
    leaks = count_leaks(rows)
    by_task = {
        task: [leaks[str(seed)][task] for seed in SEEDS]
        for task in ("qa", "summarization", "rewriting")
    }
    assert by_task == {
        "qa": [{"base": n, "sft": n} for n in (148, 149, 149)],
        "summarization": [{"base": n, "sft": n} for n in (149, 149, 149)],
        "rewriting": [{"base": n, "sft": n} for n in (145, 147, 150)],
    }
    cause = explain_leaks(rows)
    assert cause["leaking_rows"] == 1335
    assert "other" not in cause["leaked_text"]
    assert set(cause["clean_rows_in_a_batch"]) == {"1", "2"}


# thesis.md 5.7: base and sft (mean, standard deviation over seeds), gain and its interval.
TABLE = {
    ("qa", "em"): ((0.0800, 0.0050), (0.2567, 0.0465), 0.177, (0.145, 0.210)),
    ("qa", "f1"): ((0.1627, 0.0124), (0.3815, 0.0348), 0.219, (0.182, 0.251)),
    ("summarization", "rouge_l"): ((0.1742, 0.0138), (0.2842, 0.0253), 0.110, (0.090, 0.134)),
    ("rewriting", "rouge_l"): ((0.2534, 0.0246), (0.5636, 0.0321), 0.310, (0.279, 0.340)),
}


@pytest.fixture(scope="module")
def corrected(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return corrected_table(rows, AS_PUBLISHED)


@pytest.mark.shared
@pytest.mark.parametrize("case", TABLE, ids="-".join)
def test_the_corrected_table(case: tuple[str, str], corrected: dict[str, Any]):
    base, sft, gain, interval = TABLE[case]
    found = corrected[case[0]][case[1]]
    for arm, expected in (("base", base), ("sft", sft)):
        assert (round(found[arm]["mean"], 4), round(found[arm]["sd"], 4)) == expected
    assert found["gain"]["mean"] == pytest.approx(gain, abs=5.1e-4)
    assert found["gain"]["ci_rows"] == pytest.approx(interval, abs=0.005)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("scorer", "task", "metric", "base", "sft"),
    [
        (INTENDED, "qa", "em", 0.0633, 0.2367),
        (INTENDED, "qa", "f1", 0.1432, 0.3567),
        (INTENDED, "summarization", "rouge_l", 0.1656, 0.2749),
        (INTENDED, "rewriting", "rouge_l", 0.2482, 0.5550),
        (CORRECTED, "qa", "em", 0.0800, 0.2583),
        (CORRECTED, "qa", "f1", 0.1599, 0.3784),
    ],
)
def test_the_intended_normaliser_beside_it(
    scorer: Any, task: str, metric: str, base: float, sft: float, rows: list[dict[str, Any]]
):
    of_task = [row for row in rows if row["task"] == task]
    means = {
        arm: sum(item[metric] for item in items) / len(items)
        for arm, items in score(of_task, scorer, leaked=False).items()
    }
    assert {arm: round(mean, 4) for arm, mean in means.items()} == {"base": base, "sft": sft}


@pytest.mark.shared
def test_what_else_the_rows_show(rows: list[dict[str, Any]]):
    assert rewriting_parts(rows)["review_only"]["rows"] == 217
    assert emptied_references(rows) == 29
    assert [example["leaks"]["sft"] for example in examples(rows)] == [False, True, True]
