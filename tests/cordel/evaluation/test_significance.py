"""Significance: p-values, corrections and intervals by hand, and false alarms on simulated data."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from cordel.evaluation import significance
from cordel.evaluation.significance import (
    ResamplingParams,
    detectable,
    evidence,
    holm,
    interval,
    mcnemar_p,
    sign_flip_p,
)

PARAMS = ResamplingParams(resamples=2000, confidence=0.95, seed=42)
ONES = np.ones(9)


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [
        (1, 8, 0.0390625),  # 2 (1 + 9) / 2^9
        (8, 1, 0.0390625),
        (0, 5, 0.0625),  # 2 / 2^5
        (0, 6, 0.03125),
        (3, 4, 1.0),  # 2 (1 + 7 + 21 + 35) / 2^7
        (2, 2, 1.0),  # 2 (1 + 4 + 6) / 2^4, and no probability is above 1
        (0, 0, 1.0),
        (2, 8, 0.109375),  # 2 (1 + 10 + 45) / 2^10
    ],
)
def test_mcnemar_by_hand(wins: int, losses: int, expected: float) -> None:
    assert mcnemar_p(wins, losses) == expected


def test_mcnemar_of_many_items_does_not_overflow() -> None:
    # The normal approximation, with half a win less on each side.
    z = (abs(2600 - 2400) - 1) / math.sqrt(5000)
    assert mcnemar_p(2400, 2600) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        # Of the 16 sums of ±1 ±2 ±3 ±4, those of size 10, 8 and 6 are two each, those of 4 four.
        ([1, 2, 3, 4], 2 / 16),
        ([-1, 2, 3, 4], 4 / 16),
        ([1, -2, 3, 4], 6 / 16),
        ([1, 2, -3, 4], 10 / 16),
        ([1, 2, 3, 4, *[0] * 40], 2 / 16),  # items that do not differ say nothing
        ([0.1, 0.2, -0.3], 1.0),  # 0.1 + 0.2 - 0.3 is not 0 to a computer
        ([], 1.0),
        ([0, 0], 1.0),
    ],
)
def test_sign_flips_by_enumeration(differences: list[float], expected: float) -> None:
    assert sign_flip_p(np.array(differences, dtype=float), PARAMS) == expected


def test_sums_that_are_equal_but_for_rounding_count() -> None:
    # Every choice of signs with one minus sums to 0.4, on paper; floats give 0.4 and 0.4000...01.
    differences = np.array([-0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert sign_flip_p(differences, PARAMS) == (2 + 2 * 6) / 2**6


def test_more_swaps_than_resamples_are_drawn() -> None:
    rng = np.random.default_rng(5)
    differences = rng.normal(0.3, 1, 12)
    every = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=12)]
    exact = float(np.mean(np.array(every) >= abs(differences.sum()) - 1e-9))
    assert sign_flip_p(differences, replace(PARAMS, resamples=4096)) == pytest.approx(exact)
    drawn = sign_flip_p(differences, replace(PARAMS, resamples=4095))
    # Standard error sqrt(p (1 - p) / 4095), below 0.008.
    assert drawn == pytest.approx(exact, abs=0.03)
    assert drawn != exact


def test_a_drawn_p_is_never_zero() -> None:
    assert sign_flip_p(np.ones(40), PARAMS) == 1 / 2001


def test_a_drawn_p_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(3).normal(0.1, 1, 50)
    first = sign_flip_p(differences, PARAMS)
    assert sign_flip_p(differences, PARAMS) == first
    assert sign_flip_p(differences, replace(PARAMS, seed=43)) != first
    monkeypatch.setattr(significance, "RESAMPLES_AT_ONCE", 700)
    assert sign_flip_p(differences, PARAMS) == pytest.approx(first, abs=0.05)


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        # 4 x 0.005; 3 x 0.01; 2 x 0.03 and 1 x 0.04, which may not be below the one before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.7], [1, 1]),
        ([0.02], [0.02]),
        ([], []),
        ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
    ],
)
def test_holm_by_hand(p_values: list[float], expected: list[float]) -> None:
    assert holm(p_values) == pytest.approx(expected)


SIMULATIONS = 300


def simulated(kind: str, number: int) -> float:
    """Return p of two models that differ by chance alone."""
    rng = np.random.default_rng(number)
    if kind == "em":
        skill = rng.random(120)
        differences = (rng.random(120) < skill) * 1.0 - (rng.random(120) < skill)
    elif kind == "bits":
        differences = rng.standard_t(3, 120) * rng.lognormal(6, 1, 120)
    else:  # items that two seeds drew, both with the item's answer
        differences = rng.normal(0, 0.3, 40) * rng.integers(1, 3, 40)
    params = replace(PARAMS, resamples=500, seed=number)
    return evidence(differences, np.ones(len(differences)), params, outcomes=kind == "em")["p"]


@pytest.mark.parametrize("kind", ["em", "bits", "clusters"])
def test_two_models_that_are_alike_differ_in_one_of_twenty_studies(kind: str) -> None:
    alarms = sum(simulated(kind, number) < 0.05 for number in range(SIMULATIONS)) / SIMULATIONS
    # 5 % ± 2 standard errors of 1.26 %; an exact test of few outcomes stays below its level.
    assert (0.005 if kind == "em" else 0.02) < alarms < 0.09


def test_rows_of_one_item_taken_as_items_would_raise_false_alarms() -> None:
    # Why items are flipped as a whole: three equal rows of each are no three items.
    alarms = 0
    for number in range(SIMULATIONS):
        rows = np.repeat(np.random.default_rng(number).normal(0, 1, 40), 3)
        alarms += sign_flip_p(rows, replace(PARAMS, resamples=500)) < 0.05
    assert alarms / SIMULATIONS > 0.15


# --- size -----------------------------------------------------------------------------------------


def test_the_interval_of_a_ratio_where_all_documents_are_alike() -> None:
    size = np.array([100.0, 300, 50])
    assert interval(size[:, None] * 2.5, size, PARAMS).tolist() == [[2.5], [2.5]]


def test_the_interval_of_a_ratio_of_two_documents_by_hand() -> None:
    # Half of the resamples hold both: (10 + 90) / (10 + 30) = 2.5; a quarter each 1 and 3.
    totals, size = np.array([[10.0], [90.0]]), np.array([10.0, 30.0])
    assert interval(totals, size, PARAMS)[:, 0].tolist() == [1, 3]
    assert interval(totals, size, replace(PARAMS, confidence=0.4))[:, 0].tolist() == [2.5, 2.5]


def test_the_difference_of_two_ratios_is_drawn_in_pairs() -> None:
    # Documents differ by far more than the models, which differ by 0.1 bits per byte on each.
    rng = np.random.default_rng(0)
    size = rng.integers(50, 5000, 60).astype(float)
    first = size * rng.uniform(1, 4, 60)
    second = first + 0.1 * size
    bounds = interval(np.column_stack([first, second, second - first]), size, PARAMS)
    assert bounds[:, 2] == pytest.approx(0.1)
    assert bounds[:, 1] - bounds[:, 0] == pytest.approx(0.1)
    assert bounds[1, 0] - bounds[0, 0] > 0.2


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    hits = 0
    for number in range(200):
        rng = np.random.default_rng(number)
        size = rng.integers(500, 1500, 80).astype(float)
        bits = size * (2 + rng.normal(0, 0.3, 80))
        low, high = interval(bits[:, None], size, replace(PARAMS, resamples=500))[:, 0]
        hits += low < 2 < high
    assert 0.90 < hits / 200 < 0.99


def test_the_smallest_difference_by_hand() -> None:
    # Nine differences with standard deviation 3: (1.959964 + 0.841621) x 3 / sqrt(9).
    differences = np.array([3.0, -3, 3, -3, 3, -3, 3, -3, 0]) + 7
    assert differences.std(ddof=1) == 3
    assert detectable(differences, ONES) == pytest.approx(2.801585, abs=1e-6)
    assert detectable(differences * 10, ONES) == pytest.approx(28.01585, abs=1e-5)


def test_documents_weigh_as_their_bytes_in_the_smallest_difference() -> None:
    # Deviations of d from r w, r = 0: ±6 at 9 documents of 2 bytes; sqrt(9/8 x 288) / 18 x 2.8.
    differences = np.array([6.0, -6, 6, -6, 6, -6, 6, -6, 0])
    expected = 2.801585 * math.sqrt(9 / 8 * 288) / 18
    assert detectable(differences, 2 * ONES) == pytest.approx(expected, abs=1e-6)
    # What only follows the length of the document is no spread.
    size = np.arange(1.0, 10)
    assert detectable(differences + 3 * size, size) == pytest.approx(detectable(differences, size))


@pytest.mark.parametrize(
    "differences", [[], [1.0], [0.0] * 9, [0, 0, 1, 1, -1, 1, -1, 0, 0], [0.1] * 9]
)
def test_too_few_differences_tell_nothing_of_what_could_be_shown(differences: list[float]) -> None:
    # Of five items that differ, even five wins have p = 2 / 2^5.
    assert detectable(np.array(differences), np.ones(len(differences))) is None


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    found = 0
    for number in range(SIMULATIONS):
        noise = np.random.default_rng(number).normal(0, 1, 60)
        smallest = 2.801585 / math.sqrt(60)
        found += sign_flip_p(noise + smallest, replace(PARAMS, resamples=500)) < 0.05
    # 80 % ± 3 standard errors of 2.3 %.
    assert 0.73 < found / SIMULATIONS < 0.87


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resamples": 0}, "resamples is 0, expected at least 1"),
        ({"confidence": 0.0}, "confidence is 0.0, expected 0 < x < 1"),
        ({"confidence": 1.0}, "confidence is 1.0, expected 0 < x < 1"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
    ],
)
def test_a_parameter_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PARAMS, **changes)
