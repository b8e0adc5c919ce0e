"""Track 2 as Markdown, from a folder of metrics made by hand."""

from pathlib import Path
from typing import Any

import pytest

from cordel.reporting.adaptation import (
    ANSWERS_SHOWN,
    adaptation_section,
    answers_shown,
    answers_table,
    chosen_answers,
    costs_table,
    gains_table,
    intrinsic_table,
)
from cordel.runtime.files import write_json, write_jsonl


def value(mean: float, sd: float | None = 0.01) -> dict[str, Any]:
    return {"mean": mean, "sd": sd, "ci": [mean - 0.1, mean + 0.1], "per_seed": {"1": mean}}


def scores(mean: float, sd: float | None = 0.01) -> dict[str, Any]:
    metrics = {name: value(mean, sd) for name in ("em", "f1", "rouge_l")}
    return {t: metrics | {"words": value(4.4)} for t in ("qa", "summarization", "rewriting")}


def row(arm: str, number: int, task: str, **changes: Any) -> dict[str, Any]:
    fixed = {"instruction": f"faça {number}", "input": "texto", "reference": "certo"}
    answer = {"answer": f"{arm} {number}", "words": 2.0, "f1": 0.5, "rouge_l": 0.25}
    place = {"arm": arm, "task": task, "seed": 1, "id": f"i{number}"}
    return place | fixed | answer | {"too_long": False, "ended": True} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    split = {"loss": 2.0, "perplexity": 7.389, "bits_per_byte": 1.5}
    arms = {arm: {"cpt": split, "sft": split | {"loss": 1.25}} for arm in ("base", "sft")}
    write_json(tmp_path / "metrics/adaptation.json", arms)
    for arm in arms:
        write_json(tmp_path / f"metrics/lm/{arm}.json", {"bits_per_byte": 1.875})
    answers: dict[str, Any] = {"base": scores(0.1), "sft": scores(0.3, None), "copy": scores(0.2)}
    answers["gains"] = {"sft-base": scores(0.2)}
    answers["too_long"] = {"base": 3, "sft": 3}
    write_json(tmp_path / "metrics/answers.json", answers)
    cost = {
        "hours": 0.5,
        "usd": None,
        "tokens_per_second": 1234.5,
        "useful_share": 0.75,
        "utilisation": None,
        "peak_memory_mib": 512.4,
    }
    costs = {"stages": {"adapt_sft@sft": cost, "train_lm@v1": cost}, "groups": {"track_2": cost}}
    write_json(tmp_path / "metrics/costs.json", costs | {"total": cost | {"hours": 1.0}})
    return tmp_path


def test_a_profile_without_track_2_has_no_such_part(tmp_path: Path) -> None:
    assert adaptation_section(tmp_path) == ""


def test_the_intrinsic_table_has_both_splits_and_the_test_documents(folder: Path) -> None:
    lines = intrinsic_table(folder).splitlines()
    assert lines[2] == "| base | 2.000 | 7.4 | 1.500 | 1.250 | 7.4 | 1.500 | 1.875 |"
    assert len(lines) == 4


def test_the_answers_table_has_arms_then_baselines(folder: Path) -> None:
    lines = answers_table(folder).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| base", "| sft", "| copy"]
    mean = "0.100 ± 0.010"
    assert lines[2] == f"| base | {mean} | {mean} | 4 | {mean} | 4 | {mean} | 4 |"
    assert "| 0.300 |" in lines[3]  # one seed has no deviation


def test_gains_have_their_interval_and_sign(folder: Path) -> None:
    assert "| sft − base | +0.200 [+0.100, +0.300] |" in gains_table(folder)


def test_costs_show_track_2_groups_and_total_and_what_is_unknown_as_unknown(folder: Path) -> None:
    lines = costs_table(folder).splitlines()
    assert lines[2] == "| adapt_sft@sft | 0.500 | – | 1,234 | 0.75 | – | 512 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| adapt_sft@sft",
        "| *track_2*",
        "| **total**",
    ]


def test_prompts_that_did_not_fit_are_mentioned(folder: Path) -> None:
    assert "3 prompts leave no room for an answer" in adaptation_section(folder)


def test_ten_answers_are_chosen_by_hash_and_shown_side_by_side(tmp_path: Path) -> None:
    tasks = ("qa", "summarization", "rewriting")
    for arm in ("base", "sft", "cpt_sft"):
        rows = [row(arm, n, tasks[n % 3]) for n in range(60)]
        write_jsonl(tmp_path / f"scored/{arm}.jsonl", rows)
    chosen = list(chosen_answers(tmp_path / "scored"))
    assert len(chosen) == ANSWERS_SHOWN
    assert {task: sum(c["task"] == task for c in chosen) for task in tasks} == {
        "qa": 4,
        "summarization": 4,
        "rewriting": 2,
    }
    assert [c["id"] for c in chosen[:4]] != ["i0", "i3", "i6", "i9"]  # not the first ones
    assert chosen[0]["answers"]["sft"]["answer"] == f"sft {chosen[0]['id'][1:]}"
    write_jsonl(tmp_path / "answers.jsonl", chosen)
    shown = answers_shown(tmp_path)
    assert shown.count("```text") == ANSWERS_SHOWN
    assert "[F1 0.50, ROUGE-L 0.25]" in shown


def test_an_arm_that_was_not_scored_is_left_out(tmp_path: Path) -> None:
    assert list(chosen_answers(tmp_path)) == []
    write_jsonl(tmp_path / "sft.jsonl", [row("sft", 1, "qa")])
    (found,) = chosen_answers(tmp_path)
    assert list(found["answers"]) == ["sft"]


def test_the_thesis_examples_follow_the_ten_answers_and_are_not_among_them(tmp_path: Path) -> None:
    asked = "Eu quero comprar uma guitarra elétrica. Qual?"
    rows = [row("base", n, "qa") for n in range(60)] + [row("base", 99, "qa", instruction=asked)]
    write_jsonl(tmp_path / "scored/base.jsonl", rows)
    chosen = list(chosen_answers(tmp_path / "scored"))
    assert [found.get("example") for found in chosen] == [None] * 4 + ["3"]
    assert chosen[-1]["instruction"] == asked
    write_jsonl(tmp_path / "answers.jsonl", chosen)
    assert answers_shown(tmp_path).count("```text") == 4


def test_text_of_models_cannot_leave_its_fence(tmp_path: Path) -> None:
    answer = {"answer": "```\n# título", "f1": 0.0, "rouge_l": 0.0, "too_long": False}
    item = row("base", 1, "qa", answers={"base": answer, "sft": answer | {"too_long": True}})
    write_jsonl(tmp_path / "answers.jsonl", [item])
    shown = answers_shown(tmp_path)
    assert shown.count("```") == 2
    assert "\n# título" not in shown
    assert "(prompt longer than the context)" in shown
