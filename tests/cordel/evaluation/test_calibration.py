"""The calibrated guardrail: its arithmetic by hand, and its verdicts on people and on noise."""

import math
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from cordel.evaluation.calibration import (
    SIDES,
    CalibrationParams,
    Guardrail,
    People,
    Scale,
    Tail,
    allowed_failures,
    auc,
    compare_reports,
    conformal_threshold,
    failure,
    fit_scale,
    passages_needed,
    thesis_scores,
)
from cordel.evaluation.guardrails import GuardrailParams
from cordel.evaluation.passages import (
    FEATURES,
    Passage,
    Reference,
    shuffled_words,
    uniform_noise,
    unigram_noise,
    windows_of,
)
from cordel.runtime.errors import ArtifactError
from cordel.tokenizers.char import CharTokenizer
from tests.cordel.evaluation.test_passages import AO, BYTE, GATO, O_, PLURAL, Toy

THESIS = GuardrailParams(max_fallback_ratio=0.03, max_short_piece_ratio=0.12)
PARAMS = CalibrationParams(
    on_failure="warn",
    must_pass=(),
    false_alarm_rate=0.05,
    windows=100,
    reference_tokens=1000,
    order=3,
    char_order=5,
    seed=3,
    thesis=THESIS,
)

# --- arithmetic -----------------------------------------------------------------------------------


def test_a_tail_begins_at_the_last_fifth_and_its_unit_is_its_mean_excess() -> None:
    # 1 to 10: the edges are 8.2 and 2.8; beyond are 9 and 10, by 0.8 and 1.8.
    scale = fit_scale(range(1, 11), (True, True), least=0.1)
    assert scale.centre == 5.5
    assert scale.above == Tail(pytest.approx(8.2), pytest.approx(1.3))
    assert scale.below == Tail(pytest.approx(2.8), pytest.approx(1.3))
    values = {10.8: 2.0, 0.2: 2.0, 8.2: 0.0, 6.9: -1.0}
    assert [scale.deviation(v) for v in values] == pytest.approx(list(values.values()))


def test_a_side_that_speaks_for_a_sample_is_not_measured() -> None:
    scale = fit_scale(range(1, 11), (False, True), least=0.1)
    assert scale.below is None
    assert scale.deviation(0.2) == pytest.approx((0.2 - 8.2) / 1.3)


def test_where_people_never_differ_a_unit_is_one_id() -> None:
    scale = fit_scale([0.0] * 10, (False, True), least=1 / 50)
    assert scale.deviation(3 / 50) == pytest.approx(3)


def test_a_band_ends_where_the_deviation_is_the_threshold() -> None:
    band = Scale(5.5, Tail(2.8, 1.3), Tail(8.2, 1.3)).band(2.0)
    assert band == {"centre": 5.5, "low": pytest.approx(0.2), "high": pytest.approx(10.8)}
    assert Scale(5.5, None, Tail(8.2, 1.3)).band(2.0)["low"] is None


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [(19, 0.05, 19), (39, 0.05, 38), (99, 0.05, 95), (100, 0.05, 96), (9, 0.1, 9)],
)
def test_the_threshold_has_the_rank_of_split_conformal_prediction(
    count: int, rate: float, rank: int
) -> None:
    # ceil((n + 1)(1 - rate)), in any order of the scores.
    scores = np.random.default_rng(0).permutation(np.arange(1, count + 1)).tolist()
    assert conformal_threshold(scores, rate) == rank


def test_new_people_exceed_the_threshold_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    beyond = [
        np.mean(rng.exponential(size=200) > conformal_threshold(rng.exponential(size=99), 0.05))
        for _ in range(400)
    ]
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize(("rate", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.3, 3)])
def test_a_rate_needs_so_many_passages(rate: float, needed: int) -> None:
    assert passages_needed(rate) == needed
    assert conformal_threshold(range(needed), rate) == needed - 1
    with pytest.raises(ArtifactError, match=f"{needed - 1} human passages cannot hold .*{rate}"):
        conformal_threshold(range(needed - 1), rate)


@pytest.mark.parametrize(
    ("human", "noise", "area"),
    [
        ([1, 2, 3], [2, 4], 0.75),  # 2 beats 1 and ties with 2; 4 beats all: 4.5 of 6
        ([1, 1], [1], 0.5),
        ([1, 2], [3], 1.0),
        ([3], [1, 2], 0.0),
        ([math.inf], [math.inf, 0], 0.25),
    ],
)
def test_the_area_counts_ties_half(human: list, noise: list, area: float) -> None:
    assert auc(human, noise) == area


@pytest.mark.parametrize(
    ("samples", "rate", "allowed", "beyond"),
    [
        (5, 0.05, 1, 0.0226),  # 1 - 0.95^5 - 5 x 0.05 x 0.95^4
        (1, 0.05, 0, 0.05),
        (5, 0.01, 0, 0.0490),  # 1 - 0.99^5
        (2, 0.5, 2, 0.0),
        (0, 0.05, 0, 0.0),
    ],
)
def test_so_many_samples_may_fail(samples: int, rate: float, allowed: int, beyond: float) -> None:
    assert allowed_failures(samples, rate) == (allowed, pytest.approx(beyond, abs=1e-4))


def test_the_thesis_score_is_the_worse_ratio_over_its_threshold() -> None:
    class Cut(Toy):
        def encode(self, text: str) -> list[int]:
            return {"short": [O_, PLURAL, AO, GATO], "byte": [BYTE] + [O_] * 9}[text]

    passages = [Passage(np.array([O_]), text) for text in ("short", "byte")]
    # 2 of 4 over 0.12; 1 of 10 over 0.03.
    assert thesis_scores(passages, Cut(), THESIS) == pytest.approx([0.5 / 0.12, 0.1 / 0.03])


def test_a_threshold_of_zero_lets_only_zero_pass() -> None:
    limits = GuardrailParams(max_fallback_ratio=0.0, max_short_piece_ratio=0.0)
    assert thesis_scores([Passage(np.array([O_]), "o gato")], Toy(), limits) == [0.0]


def test_every_feature_has_sides() -> None:
    assert tuple(SIDES) == FEATURES


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"false_alarm_rate": 0.0}, "false_alarm_rate is 0.0, expected 0 < x < 1"),
        ({"windows": 18}, "windows is 18, expected at least 19 for false_alarm_rate 0.05"),
        ({"order": 1}, "order is 1, expected 2 to 8"),
        ({"char_order": 9}, "char_order is 9, expected 2 to 8"),
        ({"reference_tokens": 0}, "reference_tokens is 0, expected at least 1"),
    ],
)
def test_a_parameter_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PARAMS, **changes)


# --- verdicts, on the sample's prose in characters ------------------------------------------------


@pytest.fixture(scope="module")
def guardrail(prose: list[str]) -> Guardrail:
    """Return the guardrail of 112 documents, a third of them for the reference."""
    tokenizer = CharTokenizer("".join(sorted(set("~" + "".join(prose)))))
    documents = [np.asarray(tokenizer.encode(text)) for text in prose]
    rng = np.random.default_rng(0)
    reference = Reference(tokenizer, documents[::2], order=PARAMS.char_order, seed=PARAMS.seed)
    people: dict[str, list[Passage]] = {role: [] for role in ("fit", "calibration", "evaluation")}
    for document, role in zip(documents[1::2], cycle(people), strict=False):
        people[role] += map(
            reference.passage, windows_of(document, reference.opens, (200,) * 2, rng)
        )
    return Guardrail(reference, People(**people), PARAMS)


def test_features_that_say_nothing_of_characters_have_no_scale(guardrail: Guardrail) -> None:
    assert FEATURES - guardrail.scales.keys() == {"fallback_ratio", "short_piece_ratio"}


def test_about_one_in_twenty_calibration_passages_fails(guardrail: Guardrail) -> None:
    scores = np.asarray(guardrail.scores(guardrail.people.calibration))
    n = len(scores)
    assert int((scores > guardrail.threshold).sum()) == n - math.ceil((n + 1) * 0.95)


def test_people_pass(guardrail: Guardrail) -> None:
    found = guardrail.judge(guardrail.people.fit[:5])
    assert (found["passes"], found["allowed_failures"]) == (True, 1)
    assert found["run_false_alarm_rate"] == pytest.approx(0.0226, abs=1e-4)


def test_a_run_of_noise_fails_and_says_by_what(guardrail: Guardrail) -> None:
    noise = uniform_noise(guardrail.reference, [200] * 5, np.random.default_rng(1))
    found = guardrail.judge(noise)
    assert (found["passes"], found["failing"]) == (False, 5)
    first = found["per_sample"][0]
    assert first["score"] == max(guardrail.deviations(first["features"]).values())
    assert first["score"] == guardrail.deviations(first["features"])[first["worst"]]
    assert found["not_measured"].keys() == {"fallback_ratio", "short_piece_ratio"}


def test_one_failing_sample_of_five_is_let_pass(guardrail: Guardrail) -> None:
    [noise] = uniform_noise(guardrail.reference, [200], np.random.default_rng(1))
    scores = guardrail.scores(guardrail.people.fit)
    good = [p for p, s in zip(guardrail.people.fit, scores, strict=True) if s < guardrail.threshold]
    for failing, passes in ((1, True), (2, False)):
        found = guardrail.judge([noise] * failing + good[: 5 - failing])
        assert (found["failing"], found["passes"]) == (failing, passes)


def test_a_loop_fails(guardrail: Guardrail) -> None:
    text = "o povo que o povo viu " * 9
    ids = guardrail.reference.tokenizer.encode(text)
    [verdict] = guardrail.judge([guardrail.reference.passage(ids)])["per_sample"]
    assert verdict["fails"]
    assert guardrail.deviations(verdict["features"])["repeat_ratio"] > guardrail.threshold


@pytest.mark.slow
def test_noise_is_told_from_people_and_the_thesis_says_nothing(guardrail: Guardrail) -> None:
    people = guardrail.people.evaluation
    rng = np.random.default_rng(1)
    noises = {
        "uniform": uniform_noise(guardrail.reference, [200] * 40, rng),
        "unigram": unigram_noise(guardrail.reference, [200] * 40, rng),
        "shuffled": shuffled_words(guardrail.reference, people, rng),
    }
    found = guardrail.separation(noises)
    assert found["realised_false_alarm_rate"] == 1 - found["human"]["pass_share"] < 0.2
    assert {row["passages"] for row in found["noise"].values()} == {40, len(people)}
    assert found["noise"]["uniform"]["auc"] == found["noise"]["unigram"]["auc"] == 1.0
    assert found["noise"]["shuffled"]["auc"] > 0.9
    assert found["noise"]["uniform"]["thesis_auc"] is None


def test_bands_of_shares_stay_between_0_and_1(
    guardrail: Guardrail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardrail, "threshold", 1000.0)
    assert guardrail.bands()["bits_per_byte"]["low"] < 0
    bounds = [
        band[side]
        for name, band in guardrail.bands().items()
        if name not in ("bits_per_byte", "order_gain")
        for side in ("low", "high")
    ]
    assert set(bounds) == {None, 0.0, 1.0}


def test_a_guardrail_needs_people_for_each_purpose(guardrail: Guardrail) -> None:
    people = replace(guardrail.people, evaluation=[])
    with pytest.raises(ArtifactError, match="human passages to fit and 0 to evaluate"):
        Guardrail(guardrail.reference, people, PARAMS)


# --- reports --------------------------------------------------------------------------------------


def report(run: str, sha256: str = "a" * 64, **features: float | None) -> dict[str, Any]:
    """Return a report as ``check_samples`` writes it."""
    return {
        "run": run,
        "tokenizer": f"of_{run}",
        "tokenizer_sha256": sha256,
        "dataset": "d",
        "decoding": {"top_k": 80},
        "features": dict.fromkeys(FEATURES, 0.5) | features,
        "human": {"order_gain": {"centre": 3.0, "low": 1.0, "high": None}},
        "passes": run == "v7",
    }


def test_reports_of_one_tokenizer_are_compared_with_people_beside() -> None:
    found = compare_reports(
        report("v5", order_gain=0.5), report("v7", order_gain=2.0, unk_ratio=None)
    )
    human = {"centre": 3.0, "low": 1.0, "high": None}
    assert found["features"]["order_gain"] == {"a": 0.5, "b": 2.0, "human": human}
    assert found["features"]["unk_ratio"] == {"a": 0.5, "b": None, "human": None}
    assert found["same_decoding"]


def test_other_decode_settings_are_said() -> None:
    other = report("v7") | {"decoding": {"top_k": 0}}
    assert not compare_reports(report("v5"), other)["same_decoding"]


def test_reports_of_two_tokenizers_are_refused() -> None:
    message = r"v5 and v7 cannot be compared: .* of_v5 \(a{12}\) and of_v7 \(b{12}\) differ"
    with pytest.raises(ArtifactError, match=message):
        compare_reports(report("v5"), report("v7", sha256="b" * 64))


def test_a_failure_names_run_feature_and_band() -> None:
    def sample(worst: str, value: float, *, fails: bool) -> dict[str, Any]:
        return {"worst": worst, "fails": fails, "features": {worst: value}}

    samples = [
        sample("order_gain", 0.2, fails=True),
        sample("order_gain", 0.4, fails=True),
        sample("order_gain", 9.0, fails=False),
        sample("bits_per_byte", 9.0, fails=True),
    ]
    failed = report("v7") | {"per_sample": samples, "failing": 3, "allowed_failures": 1}
    assert failure(failed) == (
        "v7: 3 of 4 samples fail (at most 1 may), order_gain 0.300, expected 1.000 to any"
    )
