"""Perplexity and bits per byte from a summed negative log-likelihood.

Perplexity depends on the vocabulary, so it compares only models that share a tokenizer. Bits per
byte divides by the length of the text itself, so it compares v1 (characters) with v7 (subwords)::

    perplexity    = exp(nats / tokens)
    bits per byte = (nats + ln 256 for each byte behind an unknown id) / (ln 2 * bytes)

The second term makes a tokenizer pay for what it cannot write: a byte that it hides costs the 8
bits of a uniform guess. Source: Gao et al. 2020, "The Pile", section 3.1 (arXiv:2101.00027).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Likelihood:
    """How well a model predicted a text. Counts, not averages, so that parts can be added.

    Attributes:
        nats: Summed negative log-likelihood of the predicted tokens, natural log.
        tokens: Number of predicted tokens, end of document included.
        bytes: UTF-8 length of the text behind those tokens, separators excluded.
        unk_bytes: How many of these bytes are hidden behind unknown ids.
        correct: Predicted tokens that were the most likely one.
    """

    nats: float
    tokens: int
    bytes: int
    unk_bytes: int
    correct: int

    def __post_init__(self) -> None:
        """Refuse what cannot be a likelihood."""
        if not math.isfinite(self.nats) or self.nats < 0:
            raise ValueError(f"nats must be finite and >= 0, got {self.nats}")
        if self.tokens <= 0 or self.bytes <= 0:
            raise ValueError(f"empty text: tokens={self.tokens}, bytes={self.bytes}")
        if not 0 <= self.unk_bytes <= self.bytes:
            raise ValueError(f"unk_bytes {self.unk_bytes} is not between 0 and bytes {self.bytes}")

    def __add__(self, other: "Likelihood") -> "Likelihood":
        """Return the likelihood of both texts."""
        return Likelihood(
            nats=self.nats + other.nats,
            tokens=self.tokens + other.tokens,
            bytes=self.bytes + other.bytes,
            unk_bytes=self.unk_bytes + other.unk_bytes,
            correct=self.correct + other.correct,
        )

    @property
    def perplexity(self) -> float:
        """Per token, in [1, inf); inf where exp overflows."""
        try:
            return math.exp(self.nats / self.tokens)
        except OverflowError:
            return math.inf

    @property
    def accuracy(self) -> float:
        """Share of tokens whose most likely prediction was right."""
        return self.correct / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Per UTF-8 byte of text; independent of the tokenizer."""
        return (self.nats + self.unk_bytes * math.log(256)) / (math.log(2) * self.bytes)


def total(parts: list[Likelihood]) -> Likelihood:
    """Return the sum of at least one part."""
    first, *rest = parts
    for part in rest:
        first = first + part
    return first
