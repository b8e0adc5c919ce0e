"""Scores of items: means, intervals and gains of answers by hand, and the documents runs share."""

import math
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from cordel.evaluation import significance
from cordel.evaluation.items import METRICS, gains, shared_documents, summarise, with_holm
from cordel.evaluation.significance import ResamplingParams
from cordel.runtime.errors import ArtifactError

PARAMS = ResamplingParams(resamples=2000, confidence=0.95, seed=42)


def row(seed: int, item: str, value: float, task: str = "qa") -> dict[str, Any]:
    """Return a row whose em is ``value``, f1 half of it, rouge_l the same and words 8 times it."""
    scored = {"em": value, "f1": value / 2, "rouge_l": value, "words": 8 * value}
    return {"task": task, "seed": seed, "id": item} | scored


def interval(rows: list[dict[str, Any]], **changes: Any) -> list[float]:
    """Return the interval of em in task qa."""
    return summarise(rows, replace(PARAMS, **changes))["qa"]["em"]["ci"]


def test_the_mean_is_over_seeds_and_the_spread_is_of_a_sample() -> None:
    # Seeds give 1/2 and 1: mean 3/4 (of the rows it would be 2/3), sd 1/2 / sqrt(2).
    found = summarise([row(456, "x", 1), row(123, "y", 0), row(123, "z", 1)], PARAMS)
    assert list(found) == ["qa"]
    assert list(found["qa"]) == list(METRICS)
    em, words = found["qa"]["em"], found["qa"]["words"]
    assert em["per_seed"] == {"123": 0.5, "456": 1}
    assert list(em["per_seed"]) == ["123", "456"]
    assert (em["mean"], em["sd"]) == pytest.approx((0.75, 0.5 / math.sqrt(2)))
    assert (words["mean"], words["sd"]) == pytest.approx((6, 4 / math.sqrt(2)))


def test_one_seed_has_no_spread() -> None:
    found = summarise([row(123, "x", 0), row(123, "y", 1)], PARAMS)["qa"]["em"]
    assert (found["mean"], found["sd"], found["per_seed"]) == (0.5, None, {"123": 0.5})


def test_no_rows_have_no_tasks() -> None:
    assert summarise([], PARAMS) == {}


@pytest.mark.parametrize(
    ("rows", "confidence", "expected"),
    [
        # Two items give means 0, 1/2 and 1 in a quarter, a half and a quarter of the resamples.
        ([row(1, "x", 0), row(1, "y", 1)], 0.95, [0, 1]),
        ([row(1, "x", 0), row(1, "y", 1)], 0.6, [0, 1]),  # tails of a fifth
        ([row(1, "x", 0), row(1, "y", 1)], 0.4, [0.5, 0.5]),
        # One item, drawn by two seeds or twice by one, is drawn as a whole.
        ([row(1, "x", 0), row(2, "x", 1)], 0.95, [0.5, 0.5]),
        ([row(1, "x", 0), row(1, "x", 1)], 0.95, [0.5, 0.5]),
        # Half of the resamples hold both: two rows of 1 and one of 0.
        ([row(1, "x", 1), row(2, "x", 1), row(2, "y", 0)], 0.4, [2 / 3, 2 / 3]),
        ([row(1, "x", 1), row(2, "x", 1), row(2, "y", 0)], 0.95, [0, 1]),
    ],
)
def test_intervals_by_hand(
    rows: list[dict[str, Any]], confidence: float, expected: list[float]
) -> None:
    assert interval(rows, confidence=confidence) == pytest.approx(expected)


@pytest.fixture(scope="module")
def many() -> list[dict[str, Any]]:
    """Return 60 rows over 2 seeds that share 10 items, in two tasks."""
    values = np.random.default_rng(0).random((2, 2, 30))
    return [
        row(seed, f"i{number + 20 * seed:02}", float(values[place, seed, number]), task)
        for place, task in enumerate(("qa", "rewriting"))
        for seed in (0, 1)
        for number in range(30)
    ]


def test_an_interval_depends_on_the_seed_alone(many: list[dict[str, Any]]) -> None:
    assert interval(many, seed=43) != interval(many)
    assert interval(many[::-1]) == pytest.approx(interval(many), abs=1e-12)


def test_tasks_are_sorted_and_do_not_move_each_other(many: list[dict[str, Any]]) -> None:
    found = summarise(many[::-1], PARAMS)
    assert list(found) == ["qa", "rewriting"]
    assert summarise(many[:59:-1], PARAMS) == {"rewriting": found["rewriting"]}


def test_all_metrics_of_a_task_share_their_resamples(many: list[dict[str, Any]]) -> None:
    found = summarise(many, PARAMS)["qa"]
    assert found["f1"]["ci"] == pytest.approx([bound / 2 for bound in found["em"]["ci"]])
    assert found["words"]["ci"] == pytest.approx([bound * 8 for bound in found["em"]["ci"]])


def test_memory_bounds_change_no_interval(
    many: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = interval(many)
    monkeypatch.setattr(significance, "RESAMPLES_AT_ONCE", 7)
    assert interval(many) == pytest.approx(before, abs=1e-12)


def test_more_confidence_makes_a_wider_interval(many: list[dict[str, Any]]) -> None:
    widths = [high - low for low, high in (interval(many, confidence=c) for c in (0.5, 0.8, 0.99))]
    assert all(narrow < wide for narrow, wide in pairwise(widths))


def test_gains_compare_each_item_with_itself() -> None:
    # Items differ by 1, the arms by 1/4 everywhere: no doubt about the gain.
    before = [row(1, "x", 0), row(1, "y", 1), row(2, "x", 0.5)]
    after = [row(2, "x", 0.75), row(1, "y", 1.25), row(1, "x", 0.25)]
    found = gains(before, after, PARAMS)["qa"]
    # Two items, x of two rows; both gain, which is no more than two heads in a row: p = 2 / 4.
    assert found["em"] == {
        "mean": 0.25,
        "sd": 0,
        "ci": [0.25, 0.25],
        "per_seed": {"1": 0.25, "2": 0.25},
        "p": 0.5,
        "n_items": 2,
        "detectable": None,
    }
    assert found["words"]["mean"] == 2
    assert gains(after, before, PARAMS)["qa"]["em"]["mean"] == -0.25


def test_gains_resample_items_not_rows() -> None:
    # Item x gains 1 and loses 1: as one item, 0; y gains 0 as well.
    before = [row(1, "x", 0), row(2, "x", 1), row(2, "y", 1)]
    after = [row(1, "x", 1), row(2, "x", 0), row(2, "y", 1)]
    found = gains(before, after, PARAMS)["qa"]["em"]
    # Seeds gain 1 and -1/2.
    assert (found["mean"], found["ci"]) == (0.25, [0, 0])


def test_an_item_that_a_seed_holds_twice_is_paired_in_order() -> None:
    before = [row(1, "x", 0), row(1, "x", 1)]
    found = gains(before, [row(1, "x", 1), row(1, "x", 1)], PARAMS)["qa"]["em"]
    assert (found["mean"], found["ci"]) == (0.5, [0.5, 0.5])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            [row(1, "x", 0)],
            [row(1, "x", 0), row(2, "z", 0), row(2, "y", 0)],
            "arm 'base' lacks 2 items, first qa, seed 2, id 'y'; both arms",
        ),
        (
            [row(1, "x", 0), row(1, "x", 0, "rewriting")],
            [row(1, "x", 0)],
            "arm 'sft' lacks 1 items, first rewriting, seed 1, id 'x'; both arms",
        ),
        (
            [row(1, "x", 0), row(1, "x", 0)],
            [row(1, "x", 0)],
            "arm 'sft' lacks 1 items, first qa, seed 1, id 'x' (repeated); both arms",
        ),
        (
            [row(1, "x", 0)],
            [row(1, "y", 0)],
            "arm 'base' lacks 1 items, first qa, seed 1, id 'y'; "
            "arm 'sft' lacks 1 items, first qa, seed 1, id 'x'; both arms",
        ),
    ],
)
def test_items_that_one_arm_lacks_are_named(
    before: list[dict[str, Any]], after: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ArtifactError, match=re.escape(message)):
        gains(before, after, PARAMS, names=("base", "sft"))


def outcomes(values: list[float], seed: int = 1) -> list[dict[str, Any]]:
    """Return one row an item, the n-th under the id ``in``."""
    return [row(seed, f"i{number:02}", value) for number, value in enumerate(values)]


def test_em_is_tested_by_its_wins_and_losses_and_f1_by_its_size() -> None:
    # Eight items are lost and one is won: McNemar gives 2 (1 + 9) / 2^9.
    before, after = outcomes([1] * 8 + [0, 1]), outcomes([0] * 8 + [1, 1])
    found = gains(before, after, PARAMS)["qa"]
    assert found["em"]["p"] == 0.0390625
    assert found["em"]["n_items"] == 10
    # All differences of f1 are of one size, so the permutations count the same.
    assert found["f1"]["p"] == 0.0390625
    # If the won item counts three halves of a lost one, it does not suffice.
    after[8] |= {"f1": 4.0}
    assert gains(before, after, PARAMS)["qa"]["f1"]["p"] > 0.5


def test_seeds_that_share_an_item_are_no_second_item() -> None:
    before, after = outcomes([0] * 6), outcomes([1] * 6)
    twice = gains(before + outcomes([0] * 6, 2), after + outcomes([1] * 6, 2), PARAMS)["qa"]
    assert twice["em"] | {"per_seed": 0, "sd": 0} == gains(before, after, PARAMS)["qa"]["em"] | {
        "per_seed": 0,
        "sd": 0,
    }
    assert (twice["f1"]["p"], twice["f1"]["n_items"]) == (2 / 2**6, 6)


def test_an_item_that_two_seeds_drew_is_one_win() -> None:
    # One win, of two rows, and three losses: 2 (1 + 4) / 2^4. By size, 2 - 1 - 1 - 1 is the least.
    before, after = outcomes([0, 1, 1, 1]), outcomes([1, 0, 0, 0])
    found = gains([*before, row(2, "i00", 0)], [*after, row(2, "i00", 1)], PARAMS)["qa"]
    assert (found["em"]["p"], found["f1"]["p"]) == (0.625, 1)


def test_the_order_of_the_rows_moves_no_p(many: list[dict[str, Any]]) -> None:
    rng = np.random.default_rng(1)
    after = [r | {"f1": r["f1"] + rng.normal(0.02, 0.1)} for r in many]
    found = gains(many, after, PARAMS)["qa"]["f1"]
    assert 0.001 < found["p"] < 0.9
    assert gains(many, after[::-1], PARAMS)["qa"]["f1"]["p"] == found["p"]
    assert gains(many[::-1], after, PARAMS)["qa"]["f1"]["p"] == found["p"]


def test_all_gains_are_one_family_for_holm_without_the_words() -> None:
    values = {"a": 0.01, "b": 0.04}
    summaries = {
        name: {"qa": {metric: {"p": p, "mean": 0.0} for metric in METRICS}}
        for name, p in values.items()
    }
    found = with_holm(summaries)
    # Six tests: 6 x 0.01 for three, 3 x 0.04 for the rest.
    assert [found["a"]["qa"][m]["p_holm"] for m in ("em", "f1", "rouge_l")] == [0.06] * 3
    assert [found["b"]["qa"][m]["p_holm"] for m in ("em", "f1", "rouge_l")] == [0.12] * 3
    assert found["a"]["qa"]["words"] == {"p": 0.01, "mean": 0.0}
    assert "p_holm" not in summaries["a"]["qa"]["em"]


# --- documents ------------------------------------------------------------------------------------


def document(name: str, nats: float, size: int = 10, hidden: int = 0) -> dict[str, Any]:
    """Return what a run says of one document."""
    return {"id": name, "nats": nats, "bytes": size, "unk_bytes": hidden, "tokens": 3}


def test_documents_that_all_runs_have_by_their_ids() -> None:
    two = math.log(2)
    first = [document("b", 5 * two, 20), document("a", 3 * two, hidden=2), document("c", 1)]
    second = [document("a", 4 * two), document("b", 7 * two, 20), document("d", 1)]
    bits, size = shared_documents(first, second)
    # 3 bits and 8 for each of the two hidden bytes.
    assert bits == pytest.approx(np.array([[19, 4], [5, 7]]))
    assert size.tolist() == [10, 20]


def test_the_order_of_documents_is_that_of_their_ids() -> None:
    run = [document(f"d{n:02}", 1, 10 + n) for n in range(20)]
    _, size = shared_documents(run[::-1], run[7:] + run[:7])
    assert size.tolist() == list(range(10, 30))


def test_a_document_of_another_length_is_another_one() -> None:
    bits, size = shared_documents([document("a", 3, 10)], [document("a", 3, 11)])
    assert (bits.shape, size.shape) == ((0, 2), (0,))
