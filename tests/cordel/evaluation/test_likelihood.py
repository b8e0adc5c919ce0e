"""Bits per byte and perplexity, worked out by hand."""

import math

import pytest

from cordel.evaluation.likelihood import Likelihood, total


def likelihood(**changes: float) -> Likelihood:
    """Return a likelihood of 9 bytes (``coração``) in 7 tokens, with some counts changed."""
    values = {"nats": 7.0, "tokens": 7, "bytes": 9, "unk_bytes": 0, "correct": 2} | changes
    return Likelihood(**values)  # type: ignore[arg-type]


def test_uniform_bytes_cost_eight_bits() -> None:
    # 9 tokens, one a byte, each ln 256 nats: 9 ln 256 / (9 ln 2) = 8.
    assert likelihood(nats=9 * math.log(256), tokens=9).bits_per_byte == pytest.approx(8)


def test_bits_per_byte_ignores_how_the_text_was_cut() -> None:
    text = "coração"
    assert (len(text), len(text.encode())) == (7, 9)
    # 18 bits for the whole word, in 7 characters or in 1 piece: 18 / 9 bytes = 2 bits a byte.
    nats = 18 * math.log(2)
    for_characters, for_one_piece = likelihood(nats=nats), likelihood(nats=nats, tokens=1)
    assert for_characters.bits_per_byte == for_one_piece.bits_per_byte == pytest.approx(2)


def test_perplexity_is_per_token() -> None:
    # 7 ln 5 nats over 7 tokens: each as hard as a choice among 5.
    assert likelihood(nats=7 * math.log(5)).perplexity == pytest.approx(5)


def test_perplexity_that_overflows_is_infinite() -> None:
    # exp(710) is over the largest double, 1.8e308.
    assert likelihood(nats=710.0, tokens=1).perplexity == math.inf


def test_accuracy_is_the_share_of_hits() -> None:
    assert likelihood(correct=2).accuracy == 2 / 7


def test_a_hidden_byte_costs_the_eight_bits_of_a_uniform_guess() -> None:
    # One of two bytes hidden, the rest free: (0 + 8) bits / 2 bytes = 4.
    assert likelihood(nats=0.0, bytes=2, unk_bytes=1).bits_per_byte == pytest.approx(4)


def test_parts_add_before_they_are_divided() -> None:
    short = Likelihood(nats=8 * math.log(2), tokens=1, bytes=1, unk_bytes=0, correct=1)
    long = Likelihood(nats=10 * math.log(2), tokens=4, bytes=9, unk_bytes=2, correct=3)
    both = total([short, long])
    assert (both.tokens, both.bytes, both.unk_bytes, both.correct) == (5, 10, 2, 4)
    # (8 + 10 + 2 x 8) bits / 10 bytes = 3.4; the mean of 8 and 26/9 would be 5.4.
    assert both.bits_per_byte == pytest.approx(3.4)


@pytest.mark.parametrize("nats", [math.nan, math.inf, -0.5])
def test_nats_that_are_no_likelihood_are_refused(nats: float) -> None:
    with pytest.raises(ValueError, match=f"nats must be finite and >= 0, got {nats}"):
        likelihood(nats=nats)


@pytest.mark.parametrize(
    ("name", "message"),
    [("tokens", "empty text: tokens=0, bytes=9"), ("bytes", "empty text: tokens=7, bytes=0")],
)
def test_an_empty_text_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        likelihood(**{name: 0})


@pytest.mark.parametrize("unk_bytes", [-1, 10])
def test_hidden_bytes_are_some_of_the_bytes(unk_bytes: int) -> None:
    with pytest.raises(ValueError, match=f"unk_bytes {unk_bytes} is not between 0 and bytes 9"):
        likelihood(unk_bytes=unk_bytes)
