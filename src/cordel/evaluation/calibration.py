"""A guardrail that is calibrated on people: how a sample may look, in its own tokenizer.

Each feature of a passage (``passages.py``) has tails among held-out human passages of the same
length. The score of a sample is its worst deviation, and split conformal prediction (Lei and others
2018, "Distribution-free predictive inference for regression", section 2.2) sets the threshold so
that at most ``false_alarm_rate`` of human passages fail. What that is worth is measured by the area
under the ROC curve against noise, beside the thesis' own rule (thesis sections 0.3 and 7, items 7
to 9).

It tells noise from text. It does not tell whether a text is true, coherent or any good.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from cordel.evaluation.guardrails import GuardrailParams, is_fallback, is_short_alpha
from cordel.evaluation.passages import (
    FEATURES,
    NOT_FOR_CHARACTERS,
    Features,
    Passage,
    Pieces,
    Reference,
)
from cordel.runtime.errors import ArtifactError, UserError
from cordel.runtime.params import require

# Beyond which share of people a tail begins. Of 0.01 to 0.3, tails from the 80th percentile on
# separated the noises best in 80 ids: a score must not depend on the two strangest of 364 people.
TAIL = 0.2
RUN_LEVEL = 0.05  # of runs whose samples people wrote, at most so many would fail
# Whether a value below, and one above what people write, speaks against a sample.
SIDES = {
    "unk_ratio": (False, True),
    "fallback_ratio": (False, True),
    "short_piece_ratio": (True, True),
    "repeat_ratio": (False, True),
    "distinct_2": (True, True),
    "invalid_word_rate": (False, True),
    "bits_per_byte": (True, True),
    "order_gain": (True, False),
}
BITS = {"bits_per_byte", "order_gain"}


class GuardrailError(UserError):
    """Samples failed that had to pass: train longer, or let the guardrail only warn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationParams:
    """The section ``guardrails`` of params.yaml."""

    on_failure: Literal["warn", "fail"]  # when a run of ``must_pass`` does not pass
    must_pass: tuple[str, ...]
    false_alarm_rate: float  # of human passages that may fail
    windows: int  # human passages each to fit, calibrate and evaluate, and of each noise
    reference_tokens: int  # of train text behind the n-gram and the words, at most
    order: int  # of the n-gram over pieces
    char_order: int  # of that over characters
    seed: int
    thesis: GuardrailParams

    def __post_init__(self) -> None:
        """Check the ranges."""
        rate = self.false_alarm_rate
        require(0 < rate < 1, f"false_alarm_rate is {rate}, expected 0 < x < 1")
        least = passages_needed(rate)
        require(
            self.windows >= least,
            f"windows is {self.windows}, expected at least {least} for false_alarm_rate {rate}",
        )
        for name in ("order", "char_order"):
            value = getattr(self, name)
            require(2 <= value <= 8, f"{name} is {value}, expected 2 to 8")
        require(
            self.reference_tokens > 0,
            f"reference_tokens is {self.reference_tokens}, expected at least 1",
        )


# --- From people to a threshold -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tail:
    """One side of a feature among people: where its last fifth begins, and its mean excess.

    If the tail is exponential, each further unit is e times as rare, whatever the feature.
    """

    edge: float
    unit: float


@dataclass(frozen=True, slots=True)
class Scale:
    """A feature among people: the median and the tails that speak against a sample."""

    centre: float
    below: Tail | None
    above: Tail | None

    def deviation(self, value: float) -> float:
        """Return how far ``value`` is into the tail, in its units; negative before it."""
        below = (self.below.edge - value) / self.below.unit if self.below else -math.inf
        above = (value - self.above.edge) / self.above.unit if self.above else -math.inf
        return max(below, above)

    def band(self, threshold: float) -> dict[str, float | None]:
        """Return the median and the bounds beyond which the feature alone fails a sample."""
        low = self.below.edge - threshold * self.below.unit if self.below else None
        high = self.above.edge + threshold * self.above.unit if self.above else None
        return {"centre": self.centre, "low": low, "high": high}


def fit_scale(values: Sequence[float], sides: tuple[bool, bool], *, least: float) -> Scale:
    """Return the scale of one feature.

    Args:
        values: Of human passages.
        sides: Whether below and above speak against a sample.
        least: The smallest unit: where people never differ, one id must not be an infinity.
    """
    found = np.asarray(values, dtype=np.float64)
    below, above = (
        _tail(sign * found, least) if side else None
        for sign, side in zip((-1, 1), sides, strict=True)
    )
    return Scale(float(np.median(found)), below and Tail(-below.edge, below.unit), above)


def _tail(values: np.ndarray, least: float) -> Tail:
    edge = float(np.quantile(values, 1 - TAIL))
    excess = values[values > edge] - edge
    return Tail(edge, max(float(excess.mean()) if len(excess) else 0.0, least))


def passages_needed(rate: float) -> int:
    """Return how many calibration passages a false-alarm rate needs: 19 for 0.05."""
    return math.ceil(round(1 / rate, 9)) - 1


def conformal_threshold(scores: Sequence[float], rate: float) -> float:
    """Return what the score of a new human passage exceeds with probability ``rate`` at most.

    The score of rank ceil((n + 1)(1 - rate)) of n; passages must be exchangeable.

    Raises:
        ArtifactError: There are too few scores for that rate.
    """
    if len(scores) < passages_needed(rate):
        raise ArtifactError(
            f"{len(scores)} human passages cannot hold a false-alarm rate of {rate}, expected at "
            f"least {passages_needed(rate)}; use more or longer documents"
        )
    return sorted(scores)[math.ceil(round((len(scores) + 1) * (1 - rate), 9)) - 1]


def auc(human: Sequence[float], noise: Sequence[float]) -> float:
    """Return the probability that noise scores higher than people, ties counted half."""
    ranked = np.sort(np.asarray(human, dtype=np.float64))
    lower, not_higher = (np.searchsorted(ranked, noise, side) for side in ("left", "right"))
    return float((lower + not_higher).mean() / 2 / len(ranked))


def allowed_failures(samples: int, rate: float) -> tuple[int, float]:
    """Return (how many of ``samples`` may fail, how often more would, if people wrote them).

    The smallest number that is exceeded with probability ``RUN_LEVEL`` at most where each sample
    fails with probability ``rate``, independently: 1 of 5 at 0.05, which 0.023 of runs exceed.
    """
    left = 1.0
    for failing in range(samples + 1):
        chance = math.comb(samples, failing) * rate**failing * (1 - rate) ** (samples - failing)
        left -= chance
        if left <= RUN_LEVEL + 1e-9:
            return failing, max(0.0, left)
    return samples, 0.0


# --- The guardrail --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Human passages for three purposes; no document gives passages for two of them."""

    fit: list[Passage]
    calibration: list[Passage]
    evaluation: list[Passage]


class Guardrail:
    """The rule of one tokenizer and kind of text."""

    def __init__(self, reference: Reference, people: People, params: CalibrationParams) -> None:
        """Fit the scales and set the threshold.

        Raises:
            ArtifactError: There are too few passages.
        """
        self.reference, self.people, self.params = reference, people, params
        fitted = [reference.features(passage) for passage in people.fit]
        if not fitted or not people.evaluation:
            raise ArtifactError(
                f"{len(fitted)} human passages to fit and {len(people.evaluation)} to evaluate, "
                "expected some of each; use more or longer documents"
            )
        least = 1 / float(np.mean([len(passage.ids) for passage in people.fit]))
        columns = {name: [row[name] for row in fitted] for name in FEATURES}
        self.scales = {
            name: fit_scale([v for v in values if v is not None], SIDES[name], least=least)
            for name, values in columns.items()
            if None not in values
        }
        self.threshold = conformal_threshold(
            self.scores(people.calibration), params.false_alarm_rate
        )

    def deviations(self, features: Features) -> dict[str, float]:
        """Return how far each feature is into its tail, in units of that tail."""
        return {
            name: scale.deviation(value)
            for name, scale in self.scales.items()
            if (value := features[name]) is not None
        }

    def scores(self, passages: Sequence[Passage]) -> list[float]:
        """Return the worst deviation of each passage; above ``threshold`` it fails."""
        rows = (self.reference.features(passage) for passage in passages)
        return [max(self.deviations(row).values()) for row in rows]

    def bands(self) -> dict[str, dict[str, float | None]]:
        """Return the median of each feature among people, and its bounds at the threshold."""
        found = {name: scale.band(self.threshold) for name, scale in self.scales.items()}
        for name in found.keys() - BITS:  # a share cannot leave its range
            low, high = found[name]["low"], found[name]["high"]
            found[name]["low"] = None if low is None else max(0.0, low)
            found[name]["high"] = None if high is None else min(1.0, high)
        return found

    @cached_property
    def human_scores(self) -> list[float]:
        """The scores of the passages to evaluate on."""
        return self.scores(self.people.evaluation)

    def judge(self, samples: Sequence[Passage]) -> dict[str, Any]:
        """Return the features of a run's samples, and the verdicts on each and on the run."""
        rate = self.params.false_alarm_rate
        rows = [self.reference.features(sample) for sample in samples]
        verdicts = [self._verdict(row) for row in rows]
        failing = sum(verdict["fails"] for verdict in verdicts)
        allowed, beyond = allowed_failures(len(samples), rate)
        return {
            "human": self.bands(),
            "threshold": self.threshold,
            "false_alarm_rate": rate,
            "features": {name: _mean([row[name] for row in rows]) for name in FEATURES},
            "not_measured": {
                name: NOT_FOR_CHARACTERS for name in FEATURES if name not in self.scales
            },
            "per_sample": verdicts,
            "failing": failing,
            "allowed_failures": allowed,
            "run_false_alarm_rate": beyond,
            "passes": failing <= allowed,
        }

    def _verdict(self, features: Features) -> dict[str, Any]:
        deviations = self.deviations(features)
        worst = max(deviations, key=lambda name: deviations[name])
        score = deviations[worst]
        fails = score > self.threshold
        return {"features": features, "score": score, "worst": worst, "fails": fails}

    def separation(self, noises: Mapping[str, Sequence[Passage]]) -> dict[str, Any]:
        """Return how well this rule and the thesis' tell people from each kind of noise.

        Both have an area under the ROC curve, and the share of passages that each lets pass.
        """
        limits = self.params.thesis
        tokenizer = self.reference.tokenizer
        human = self.human_scores
        theirs = thesis_scores(self.people.evaluation, tokenizer, limits)
        found = {}
        for name, passages in noises.items():
            scores = self.scores(passages)
            published = thesis_scores(passages, tokenizer, limits)
            found[name] = {
                "passages": len(passages),
                "auc": auc(human, scores),
                "pass_share": _at_most(scores, self.threshold),
                "thesis_auc": auc(theirs, published) if theirs and published else None,
                "thesis_pass_share": _at_most(published, 1.0) if published else None,
            }
        return {
            "human": {
                "fit": len(self.people.fit),
                "calibration": len(self.people.calibration),
                "evaluation": len(human),
                "pass_share": _at_most(human, self.threshold),
                "thesis_pass_share": _at_most(theirs, 1.0) if theirs else None,
            },
            "bands": self.bands(),
            "threshold": self.threshold,
            "false_alarm_rate": self.params.false_alarm_rate,
            "realised_false_alarm_rate": 1 - _at_most(human, self.threshold),
            "reference": {"tokens": self.reference.tokens, "words": len(self.reference.words)},
            "noise": found,
        }


def thesis_scores(
    passages: Sequence[Passage], tokenizer: Pieces, limits: GuardrailParams
) -> list[float] | None:
    """Return the worse of the thesis' two ratios over its threshold, on text cut again.

    A passage passes at 1 or less. None for characters, of which that rule says nothing.
    """
    if tokenizer.kind == "char":
        return None
    found = []
    for passage in passages:
        pieces = tokenizer.pieces(tokenizer.encode(passage.text))
        fallback = sum(map(is_fallback, pieces)) / max(1, len(pieces))
        short = sum(map(is_short_alpha, pieces)) / max(1, len(pieces))
        over = (
            _over(fallback, limits.max_fallback_ratio),
            _over(short, limits.max_short_piece_ratio),
        )
        found.append(max(over))
    return found


def _over(ratio: float, limit: float) -> float:
    if limit:
        return ratio / limit
    return math.inf if ratio else 0.0


def _at_most(scores: Sequence[float], threshold: float) -> float:
    return float(np.mean(np.asarray(scores) <= threshold))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# --- Reports --------------------------------------------------------------------------------------


def failure(report: Mapping[str, Any]) -> str:
    """Return one clause on why a run fails: how many samples, and the feature most to blame."""
    failed = [sample for sample in report["per_sample"] if sample["fails"]]
    [(name, _)] = Counter(sample["worst"] for sample in failed).most_common(1)
    values = [sample["features"][name] for sample in failed if sample["worst"] == name]
    band = report["human"][name]
    low, high = (_bound(band[side]) for side in ("low", "high"))
    return (
        f"{report['run']}: {report['failing']} of {len(report['per_sample'])} samples fail (at "
        f"most {report['allowed_failures']} may), {name} {float(np.mean(values)):.3f}, "
        f"expected {low} to {high}"
    )


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:.3f}"


def compare_reports(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return the features of two runs side by side, with what people write as the baseline.

    Args:
        a: A report of ``check_samples``.
        b: Another one, of samples in the same tokenizer.

    Returns:
        ``features``: of each, ``a``, ``b`` and ``human``, the band in a's text; ``same_decoding``.

    Raises:
        ArtifactError: The tokenizers differ, so that the ratios measure the tokenizer.
    """
    if a["tokenizer_sha256"] != b["tokenizer_sha256"]:
        raise ArtifactError(
            f"guardrails of {a['run']} and {b['run']} cannot be compared: their tokenizers "
            f"{a['tokenizer']} ({a['tokenizer_sha256'][:12]}) and {b['tokenizer']} "
            f"({b['tokenizer_sha256'][:12]}) differ; compare runs of one tokenizer"
        )
    features = {
        name: {
            "a": a["features"][name],
            "b": b["features"][name],
            "human": a["human"].get(name),
        }
        for name in FEATURES
    }
    return {"features": features, "same_decoding": a["decoding"] == b["decoding"]}
