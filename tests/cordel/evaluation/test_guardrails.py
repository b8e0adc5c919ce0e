"""The published guardrail: its definitions by hand, its reports to the last digit, and its flaw."""

import gzip
import json
from collections.abc import Callable
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece as spm

from cordel.evaluation.guardrails import (
    GuardrailParams,
    Sample,
    is_fallback,
    is_short_alpha,
    thesis_report,
)

THESIS = GuardrailParams(max_fallback_ratio=0.03, max_short_piece_ratio=0.12)

# --- definitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("piece", "expected"),
    [("<0xC3>", True), ("<0xc3", False), ("0xC3>", False), ("<s>", False), ("▁<0xC3>", False)],
)
def test_a_fallback_stands_for_one_byte(piece: str, expected: bool) -> None:
    assert is_fallback(piece) is expected


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        ("a", True),
        ("ão", True),
        ("ção", False),  # three letters
        ("▁a", False),  # begins a word: ▁ is no letter
        ("▁", False),
        ("1a", False),
        (",", False),
        ("", False),
    ],
)
def test_a_short_piece_is_at_most_two_letters_inside_a_word(piece: str, expected: bool) -> None:
    assert is_short_alpha(piece) is expected


def report(*texts: str, **limits: float) -> dict[str, Any]:
    """Return the report on texts whose pieces are divided by ``|``, with seeds 101, 102..."""
    params = GuardrailParams(
        **({"max_fallback_ratio": 0.03, "max_short_piece_ratio": 0.12} | limits)
    )
    samples = [Sample(101 + n, text) for n, text in enumerate(texts)]
    return thesis_report(samples, lambda text: text.split("|"), params)


def test_ratios_are_of_all_pieces() -> None:
    # 8 pieces, 2 bytes, 1 short; 33 characters: 5 + 6 + 6 + 2 + 2 + 1 + 2 + 2 and 7 bars.
    found = report("▁cora|<0xC3>|<0xA7>|ão|▁a|.|▁e|▁b")["per_sample"]
    assert found == [
        {
            "seed": 101,
            "tokens": 8,
            "chars": 33,
            "fallback_tokens": 2,
            "fallback_ratio": 0.25,
            "short_alpha_tokens": 1,
            "short_alpha_ratio": 0.125,
        }
    ]


def test_the_aggregate_adds_before_it_divides() -> None:
    # 1 of 1 and 0 of 3: 1 of 4, where the mean of the ratios would be 1/2.
    found = report("a", "▁a|▁b|▁c")["aggregate"]
    assert (found["samples_count"], found["tokens"], found["chars"]) == (2, 4, 9)
    assert found["short_alpha_ratio"] == 0.25


def test_a_ratio_equal_to_the_threshold_passes() -> None:
    found = report("a|▁b|▁c|<0xC3>", max_short_piece_ratio=0.25, max_fallback_ratio=0.25)
    assert (found["passes"], found["violations"]) == (True, [])


def test_one_sample_over_the_threshold_fails_the_report() -> None:
    # 1 of 2, and 1 of 4 together.
    found = report("▁a|b", "▁c|▁d", max_short_piece_ratio=0.25)
    assert found["passes"] is False
    assert found["violations"] == [
        {"type": "sample_short_alpha_ratio", "seed": 101, "value": 0.5, "threshold": 0.25}
    ]


def test_the_aggregate_over_the_threshold_is_a_violation_of_its_own() -> None:
    found = report("<0xC3>|▁b")["violations"]
    assert [violation["type"] for violation in found] == [
        "aggregate_fallback_ratio",
        "sample_fallback_ratio",
    ]


def test_a_text_without_pieces_has_ratios_of_zero() -> None:
    found = thesis_report([Sample(-1, "")], lambda _: [], THESIS)
    assert found["aggregate"]["short_alpha_ratio"] == 0
    assert found["passes"] is True


@pytest.mark.parametrize("name", ["max_fallback_ratio", "max_short_piece_ratio"])
def test_a_threshold_is_a_share(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 1.2, expected 0 <= x <= 1"):
        report("▁a", **{name: 1.2})


# --- the published reports (thesis.md, rows G8 to G10) --------------------------------------------

TOKENIZERS = {  # the folder under golden/tokenizers and the hash that thesis.md gives
    "versions/v5b-transformer/tokenizers/unigram_12k": ("v5b_unigram_12k", "61f53e2d02d0cb53"),
    "versions/v5b-transformer/tokenizers/unigram_40k": ("v5b_unigram_40k", "2884e8986857f9db"),
    "versions/v6-release-candidate/tokenizers/unigram_16k": ("v6_unigram_16k", "cc4c2144178f023f"),
}
V5B, V6 = "artifacts/guardrails", "v6"
REPORTS = {  # report: samples
    f"{V5B}/guardrails_v5b_long.json": "samples_v5b_long",  # G8
    f"{V5B}/guardrails_v5b_long_tp08.json": "samples_v5b_long_tp08",  # G9
    f"{V5B}/samples_v5b_long_tp08_guardrails_test.json": "samples_v5b_long_tp08",
    f"{V5B}/guardrails_v5b_dryrun_40k_tp08.json": "samples_v5b_dryrun_40k_tp08",
    f"{V5B}/samples_v5b_long_final_tp075_guardrails.json": "samples_v5b_long_final_tp075",
    f"{V6}/guardrails_v6_rc16k_v5b.json": "samples_v6_rc16k_v5b",  # G10
    f"{V6}/guardrails_v6_rc16k_v5b_aligned.json": "samples_v6_rc16k_v5b_aligned",
    f"{V6}/guardrails_v6_rc16k_v5b_backup_.json": "samples_v6_rc16k_v5b_backup_",
    f"{V6}/guardrails_v6_rc16k_v5b_t07_p95_nok.json": "samples_v6_rc16k_v5b_t07_p95_nok",
    f"{V6}/guardrails_v6_rc16k_v5b_TOPK_BUG.json": "samples_v6_rc16k_v5b_TOPK_BUG",
    f"{V6}/guardrails_v6_preflight_16k.json": "samples_v6_preflight_16k",
    f"{V6}/guardrails_v6_long.json": "samples_v6_long",
    f"{V6}/guardrails_v6_long_16k_ep4.json": "samples_v6_long_16k_ep4",
}
STALE = f"{V6}/guardrails_v6_preflight.json"  # G11: its samples were made again afterwards
OURS = {"token_count": "tokens", "char_count": "chars"}
OURS |= {"total_tokens": "tokens", "total_chars": "chars"}
THEIRS_ONLY = {"model_key", "avg_tokens_per_sample", "avg_chars_per_sample"}


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    """Return the folder of the thesis' published files."""
    return shared / "data" / "golden"


@pytest.fixture(scope="module")
def pieces_with(golden: Path) -> Callable[[str], Callable[[str], list[str]]]:
    """Return a function from a tokenizer's folder to what cuts a text into pieces."""

    def pieces_with(folder: str) -> Callable[[str], list[str]]:
        [model] = (golden / "tokenizers" / folder).glob("*.model")
        processor = spm.SentencePieceProcessor(model_file=str(model))
        return lambda text: processor.encode(text, out_type=str)

    return pieces_with


def in_our_words(row: dict[str, Any]) -> dict[str, Any]:
    """Return a published row under our keys, without the averages that we leave out."""
    return {OURS.get(key, key): value for key, value in row.items() if key not in THEIRS_ONLY}


@pytest.mark.shared
@pytest.mark.parametrize("name", REPORTS)
def test_a_published_report_is_reproduced(name: str, golden: Path, pieces_with: Callable) -> None:
    published = json.loads((golden / name).read_text("utf-8"))
    folder = golden / ("v6" if name.startswith(V6) else "artifacts/samples")
    samples = json.loads((folder / f"{REPORTS[name]}.json").read_text("utf-8"))
    samples = samples[published["model_key"]] if isinstance(samples, dict) else samples
    texts = [Sample(sample.get("seed", -1), sample["output"]) for sample in samples]
    tokenizer, _ = TOKENIZERS[published["tokenizer"].replace("\\", "/").rpartition("/")[0]]
    limits = GuardrailParams(**published["thresholds"])
    found = thesis_report(texts, pieces_with(tokenizer), limits)
    assert found["aggregate"] == in_our_words(published["aggregate"])
    assert found["per_sample"] == [in_our_words(row) for row in published["per_sample"]]
    violations = [
        v | {"type": v["type"].replace("short_piece", "short_alpha")}
        for v in published["violations"]
    ]
    assert (found["passes"], found["violations"]) == (published["passes"], violations)


@pytest.mark.shared
def test_every_published_report_but_the_stale_one_was_reproduced(golden: Path) -> None:
    found = {path.relative_to(golden).as_posix() for path in golden.rglob("*guardrails*.json")}
    assert found == {*REPORTS, STALE}
    assert len(REPORTS) == 13


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "digest"), TOKENIZERS.values())
def test_the_tokenizers_are_the_published_ones(folder: str, digest: str, golden: Path) -> None:
    [model] = (golden / "tokenizers" / folder).glob("*.model")
    assert sha256(model.read_bytes()).hexdigest()[:16] == digest


# --- what the rule says of people and of noise (thesis.md, section 0.3) ---------------------------


def register_ratio(path: Path, pieces_of: Callable[[str], list[str]]) -> float:
    """Return the short-piece ratio of 15 documents of a register, 3,000 characters each."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        texts = [Sample(-1, json.loads(line)["text"][:3000]) for line in islice(lines, 15)]
    return thesis_report(texts, pieces_of, THESIS)["aggregate"]["short_alpha_ratio"]


@pytest.mark.shared
def test_the_published_rule_rejects_people(shared: Path, pieces_with: Callable) -> None:
    # thesis.md: 0.17 to 0.20. Of our 26 registers only the pupils' essays come near 0.12.
    pieces_of = pieces_with("v6_unigram_16k")
    files = sorted((shared / "data" / "corpus_ptbr").glob("*.jsonl.gz"))
    ratios = {path.name.split(".")[0]: register_ratio(path, pieces_of) for path in files}
    assert len(ratios) == 26
    assert {name for name, ratio in ratios.items() if ratio <= 0.125} <= {"redacoes_uol"}
    assert np.median(list(ratios.values())) == pytest.approx(0.18, abs=0.02)


@pytest.mark.shared
def test_uniform_noise_scores_lower_than_people(golden: Path, pieces_with: Callable) -> None:
    [model] = (golden / "tokenizers" / "v6_unigram_16k").glob("*.model")
    processor = spm.SentencePieceProcessor(model_file=str(model))
    ids = np.random.default_rng(1).integers(0, processor.get_piece_size(), (100, 280))
    noise = [Sample(-1, processor.decode(row.tolist())) for row in ids]
    found = thesis_report(noise, pieces_with("v6_unigram_16k"), THESIS)
    # thesis.md: 0.121 in the 16k tokenizer.
    assert found["aggregate"]["short_alpha_ratio"] == pytest.approx(0.121, abs=0.004)
