"""The metrics of a tokenizer, worked out by hand on two words."""

from pathlib import Path

import pytest

from cordel.tokenizers.char import CharTokenizer, learn_characters, load_characters
from cordel.tokenizers.report import REQUIRED, describe_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> CharTokenizer:
    """Return a tokenizer that knows every character of ``avó`` and no other letter."""
    learn_characters(["avó avó"], tmp_path)
    return load_characters(tmp_path)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # "avó-nu" is 6 tokens (-, n and u unknown), 2 words, 7 bytes (ó has 2).
        ("bytes_per_token", 7 / 6),
        ("tokens_per_word", 6 / 2),
        ("unknown_rate", 3 / 6),
        ("unknown_bytes_rate", 3 / 7),
        ("byte_rate", 0),
        ("exact_documents_rate", 0),
        ("vocab_size", 6),  # newline, space, a, v, ~, ó
    ],
)
def test_each_metric_is_its_ratio_on_two_words(
    tokenizer: CharTokenizer, metric: str, expected: float
) -> None:
    assert describe_tokenizer(tokenizer, ["avó-nu"])[metric] == pytest.approx(expected)


def test_a_document_that_survives_counts_as_exact(tokenizer: CharTokenizer) -> None:
    metrics = describe_tokenizer(tokenizer, ["avó", "a vó", "nu", "vão"])
    assert metrics["exact_documents_rate"] == 0.5


def test_characters_that_do_not_survive_are_listed(tokenizer: CharTokenizer) -> None:
    # Of the required ones it knows a, v and ó.
    metrics = describe_tokenizer(tokenizer, ["avó"])
    assert metrics["unwritable"] == "".join(c for c in REQUIRED if c not in "avó")
    assert metrics["unwritable_count"] == len(REQUIRED) - 3


def test_v7_writes_every_required_character_some_as_bytes(learnt: dict) -> None:
    metrics = describe_tokenizer(learnt["v7"].tokenizer, ["é日"])
    assert metrics["unwritable"] == ""
    # é is a piece, 日 three bytes: 3 of 4 tokens.
    assert metrics["byte_rate"] == 0.75


def test_no_text_gives_zeros_instead_of_a_division_by_zero(tokenizer: CharTokenizer) -> None:
    metrics = describe_tokenizer(tokenizer, [])
    assert metrics["tokens_per_word"] == metrics["unknown_rate"] == 0
