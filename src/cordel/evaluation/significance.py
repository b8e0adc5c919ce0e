"""Is it more than chance: exact tests, Holm's correction, intervals, and what n items could show.

An item (a document, a question) carries a total and a weight, and the figure of a model is the sum
of the totals over the sum of the weights::

    figure              total of an item         weight of an item
    mean of em, f1, …   sum of its rows' scores  its rows: several task seeds may draw one item
    bits per byte       bits of the document     bytes of the document

So whatever belongs to an item is drawn, and flipped, together. Two models scored on the same items
share the weights; the difference of their figures is the figure of the items' differences.

Everything is about items. That another training run of the same recipe would score otherwise is
not in any of these numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from cordel.runtime.params import require

ALPHA = 0.05  # two-sided
POWER = 0.8
RESAMPLES_AT_ONCE = 200  # bounds the memory, changes no result
TIE = 1e-9  # of the largest sum: sums that differ by rounding alone are equal


@dataclass(frozen=True, slots=True, kw_only=True)
class ResamplingParams:
    """The section ``resampling`` of params.yaml."""

    resamples: int
    confidence: float  # of the intervals
    seed: int  # of the resampling

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.resamples > 0, f"resamples is {self.resamples}, expected at least 1")
        require(0 < self.confidence < 1, f"confidence is {self.confidence}, expected 0 < x < 1")
        require(self.seed >= 0, f"seed is {self.seed}, expected at least 0")


def evidence(
    differences: np.ndarray, weights: np.ndarray, params: ResamplingParams, *, outcomes: bool
) -> dict[str, Any]:
    """Return ``p``, ``n_items`` and ``detectable`` of one paired difference.

    Args:
        differences: ``float64[items]``, of the items' totals, in an order that no file decides.
        weights: ``float64[items]``.
        params: How to resample.
        outcomes: Whether each item is right or wrong, so that McNemar's test is the one.
    """
    p = (
        mcnemar_p(int((differences > 0).sum()), int((differences < 0).sum()))
        if outcomes
        else sign_flip_p(differences, params)
    )
    return {"p": p, "n_items": len(differences), "detectable": detectable(differences, weights)}


# --- tests ----------------------------------------------------------------------------------------


def mcnemar_p(wins: int, losses: int) -> float:
    """Return the exact two-sided p of McNemar's test: a fair coin for each item that differs.

    Args:
        wins: Items that only the second model has right.
        losses: Items that only the first has right.

    Source: McNemar 1947, Psychometrika 12; its exact form is the binomial test.
    """
    items = wins + losses
    tail = sum(math.comb(items, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**items)


def sign_flip_p(differences: np.ndarray, params: ResamplingParams) -> float:
    """Return the two-sided p of the paired permutation test on the sum of ``differences``.

    If nothing distinguishes two models, swapping their scores of an item is as likely as not. All
    2^n swaps of the n items that differ are counted where they are no more than ``resamples``;
    else that many are drawn, and p is (k + 1) / (m + 1).

    Args:
        differences: ``float64[items]``.
        params: How many swaps to draw, and with which seed.

    Source: Fisher 1935, The Design of Experiments, section 21; Phipson and Smyth 2010 for the 1s.
    """
    moved = differences[differences != 0]
    bound = abs(moved.sum()) - TIE * np.abs(moved).sum()
    if len(moved) < 63 and 2 ** len(moved) <= params.resamples:
        return float((np.abs(_all_sums(moved)) >= bound).mean())
    rng = np.random.default_rng(params.seed)
    extreme = sum(
        int((np.abs(_signs(rng, count, len(moved)) @ moved) >= bound).sum())
        for count in _portions(params.resamples)
    )
    return (extreme + 1) / (params.resamples + 1)


def _all_sums(values: np.ndarray) -> np.ndarray:
    """Return the sums of ``values`` under every choice of signs, ``float64[2^n]``."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _signs(rng: np.random.Generator, count: int, items: int) -> np.ndarray:
    return 2.0 * rng.integers(2, size=(count, items), dtype=np.int8) - 1


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values, adjusted so that 5 % is the chance of any false alarm among them.

    Source: Holm 1979, Scandinavian Journal of Statistics 6.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1).tolist()


# --- size -----------------------------------------------------------------------------------------


def interval(totals: np.ndarray, weights: np.ndarray, params: ResamplingParams) -> np.ndarray:
    """Return the percentile bootstrap interval of each column's figure, ``float64[2, columns]``.

    Columns share their resamples.

    Args:
        totals: ``float64[items, columns]``, in an order that no file decides.
        weights: ``float64[items]``, above 0.
        params: How to resample.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    columns = np.column_stack([totals, weights])
    rng = np.random.default_rng(params.seed)
    drawn = np.concatenate(
        [_times_drawn(rng, count, len(columns)) @ columns for count in _portions(params.resamples)]
    )
    tail = (1 - params.confidence) / 2
    return np.quantile(drawn[:, :-1] / drawn[:, -1:], [tail, 1 - tail], axis=0)


def detectable(differences: np.ndarray, weights: np.ndarray) -> float | None:
    """Return the smallest difference that these items could show, None if too few of them differ.

    A true difference of this size is found at a two-sided level of 5 % in four studies of five of
    as many items. It is 2.8 standard errors: with equal weights
    (z_0.975 + z_0.8) * sd / sqrt(n), otherwise with the standard error of a ratio of sums. It is
    None below six items that differ: even if all agreed, p would be above 0.05.

    Args:
        differences: ``float64[items]``, of the items' totals.
        weights: ``float64[items]``.

    Source: Bloom 1995, Evaluation Review 19, for the multiple; Cochran 1977, Sampling Techniques,
    theorem 2.5, for the ratio.
    """
    items = len(differences)
    if 2 ** (1 - int((differences != 0).sum())) > ALPHA:  # p, if all of them agreed
        return None
    rest = differences - weights * differences.sum() / weights.sum()
    error = math.sqrt(items / (items - 1) * float(rest @ rest)) / float(weights.sum())
    # All items alike: rounding alone is no spread.
    if error <= TIE * float(np.abs(differences).sum() / weights.sum()):
        return None
    normal = NormalDist()
    return (normal.inv_cdf(1 - ALPHA / 2) + normal.inv_cdf(POWER)) * error


def _portions(resamples: int) -> list[int]:
    whole, rest = divmod(resamples, RESAMPLES_AT_ONCE)
    return [RESAMPLES_AT_ONCE] * whole + [rest] * bool(rest)


def _times_drawn(rng: np.random.Generator, resamples: int, items: int) -> np.ndarray:
    """Return how often each resample draws each item, ``float64[resamples, items]``."""
    drawn = rng.integers(items, size=(resamples, items))
    places = drawn + np.arange(resamples)[:, None] * items
    counts = np.bincount(places.ravel(), minlength=resamples * items)
    return counts.reshape(resamples, items).astype(np.float64)
