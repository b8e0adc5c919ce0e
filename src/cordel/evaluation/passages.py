"""Passages of text in one tokenizer: what people write, what noise looks like, and its features.

A passage is a list of ids as a model drew them, or as a tokenizer gave them, with their text. All
features are of those ids and never of the text cut into pieces again: a model that spells words
letter by letter would come out as one that knows them (thesis section 7, item 8).
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cordel.evaluation.guardrails import is_fallback, is_short_alpha
from cordel.kneser_ney import KneserNey
from cordel.runtime.errors import ArtifactError, ParamsError

WORD = re.compile(r"[^\W\d_]+")
REPEATED = 4  # ids: the n-grams of which none should come twice
PERMUTATIONS = 8  # of a passage's words: one passage's gain is noisier than the mean of eight
NOT_FOR_CHARACTERS = "every piece is one character, so a share of pieces says nothing"
FEATURES = (
    "unk_ratio",
    "fallback_ratio",
    "short_piece_ratio",
    "repeat_ratio",
    "distinct_2",
    "invalid_word_rate",
    "bits_per_byte",
    "order_gain",
)

Features = dict[str, float | None]


class Pieces(Protocol):
    """What is needed of a tokenizer (``cordel.tokenizers.saved.Tokenizer`` has it)."""

    kind: str
    vocab_size: int
    unknown: int
    begin: list[int]
    end: list[int]
    undrawable: list[int]

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``."""
        ...

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the piece of each id."""
        ...


@dataclass(frozen=True, slots=True)
class Passage:
    """Ids as they were drawn or written, ``int[T]``, and the text that they stand for."""

    ids: np.ndarray
    text: str


class Reference:
    """Human text in one tokenizer: its n-gram, its words, its pieces. It measures passages."""

    def __init__(
        self, tokenizer: Pieces, documents: Sequence[np.ndarray], *, order: int, seed: int
    ) -> None:
        """Learn from documents.

        Args:
            tokenizer: Theirs.
            documents: Each ``int[T]``, without begin and end.
            order: Of the n-gram.
            seed: Of the permutations of a passage's words.

        Raises:
            ArtifactError: There is no document.
            ParamsError: The order is too high for the vocabulary.
        """
        if not documents:
            raise ArtifactError("no document is left for the reference n-gram; use more train text")
        self.tokenizer, self.seed = tokenizer, seed
        self.tokens = sum(map(len, documents))
        pieces = tokenizer.pieces(range(tokenizer.vocab_size))
        self.opens = opening(pieces)
        self._fallback = np.array([is_fallback(piece) for piece in pieces])
        self._short = np.array([is_short_alpha(piece) for piece in pieces])
        begin = tokenizer.begin[0] if tokenizer.begin else tokenizer.vocab_size
        size = max(tokenizer.vocab_size, begin + 1)
        ended = (np.concatenate([document, tokenizer.end]) for document in documents)
        try:
            ngram = KneserNey(order, size, begin=begin)
        except ValueError as error:
            raise ParamsError(f"guardrails: {error}") from None
        self._ngram = ngram.fit(ended)
        self.counts = np.bincount(np.concatenate(documents), minlength=tokenizer.vocab_size)
        texts = (tokenizer.decode(document.tolist()) for document in documents)
        self.words = {word for text in texts for word in WORD.findall(text.lower())}

    def passage(self, ids: Sequence[int] | np.ndarray) -> Passage:
        """Return ``ids`` with their text."""
        found = np.asarray(ids, dtype=np.int64)
        return Passage(found, self.tokenizer.decode(found.tolist()))

    def features(self, passage: Passage) -> Features:
        """Return ``FEATURES`` of a passage; None where one says nothing in this tokenizer.

        The first three are shares of the ids: unknown, bytes, and at most two letters inside a
        word. ``repeat_ratio`` is the share of the 4-grams of ids that came before in the passage,
        ``distinct_2`` that of the different 2-grams. Words are runs of letters, invalid if the
        reference has them in no case. ``bits_per_byte`` is the n-gram's surprise. ``order_gain``
        is by how many bits a word it prefers the passage to the same words in a random order: 0
        for noise of any kind, and less dependent on the register than the bits are.
        """
        ids = passage.ids
        characters = self.tokenizer.kind == "char"
        bits = self._bits(ids)
        return {
            "unk_ratio": _share(ids == self.tokenizer.unknown),
            "fallback_ratio": None if characters else _share(self._fallback[ids]),
            "short_piece_ratio": None if characters else _share(self._short[ids]),
            "repeat_ratio": 1 - distinct_share(ids, REPEATED),
            "distinct_2": distinct_share(ids, 2),
            "invalid_word_rate": self._invalid_word_rate(passage.text),
            "bits_per_byte": bits / max(1, len(passage.text.encode())),
            "order_gain": self._order_gain(ids, bits),
        }

    def _bits(self, ids: np.ndarray) -> float:
        return self._ngram.nats(ids) / math.log(2) if len(ids) else 0.0

    def _invalid_word_rate(self, text: str) -> float:
        words = WORD.findall(text.lower())
        return sum(word not in self.words for word in words) / len(words) if words else 1.0

    def _order_gain(self, ids: np.ndarray, bits: float) -> float:
        words = np.split(ids, np.flatnonzero(self.opens[ids[1:]]) + 1)
        rng = np.random.default_rng(self.seed)
        orders = [rng.permutation(len(words)) for _ in range(PERMUTATIONS)]
        others = [self._bits(np.concatenate([words[k] for k in order])) for order in orders]
        return (float(np.mean(others)) - bits) / len(words)


def opening(pieces: Sequence[str]) -> np.ndarray:
    """Return which pieces begin a word, ``bool[V]``: those that begin with a space."""
    return np.array([piece[:1] in ("▁", " ", "\n") for piece in pieces])


def distinct_share(ids: np.ndarray, n: int) -> float:
    """Return the share of the n-grams of ``ids`` that are different ones; 1 if there are none."""
    if len(ids) < n:
        return 1.0
    grams = np.lib.stride_tricks.sliding_window_view(ids, n)
    return len(np.unique(grams, axis=0)) / len(grams)


def _share(marks: np.ndarray) -> float:
    return float(marks.mean()) if len(marks) else 0.0


# --- People and noise -----------------------------------------------------------------------------


def windows_of(
    document: np.ndarray, opens: np.ndarray, lengths: tuple[int, int], rng: np.random.Generator
) -> list[np.ndarray]:
    """Return the consecutive windows of a document, each from the beginning of a word.

    Args:
        document: ``int[T]``, without begin and end.
        opens: ``bool[V]``, which ids begin a word.
        lengths: The shortest and the longest, in ids; all between are as likely.
        rng: Draws them.
    """
    found: list[np.ndarray] = []
    starts = np.flatnonzero(opens[document])
    end = 0
    while True:
        length = int(rng.integers(lengths[0], lengths[1] + 1))
        place = int(np.searchsorted(starts, end))
        if place == len(starts) or starts[place] + length > len(document):
            return found
        end = int(starts[place]) + length
        found.append(document[end - length : end])


def uniform_noise(
    reference: Reference, lengths: Sequence[int], rng: np.random.Generator
) -> list[Passage]:
    """Return a passage for each length, of ids drawn uniformly from all that can be drawn."""
    drawable = np.setdiff1d(np.arange(reference.tokenizer.vocab_size), _unwritten(reference))
    return [reference.passage(rng.choice(drawable, length)) for length in lengths]


def unigram_noise(
    reference: Reference, lengths: Sequence[int], rng: np.random.Generator
) -> list[Passage]:
    """Return a passage for each length, of ids drawn as often as the reference has them."""
    counts = reference.counts.astype(np.float64)
    counts[_unwritten(reference)] = 0
    shares = counts / counts.sum()
    return [reference.passage(rng.choice(len(shares), length, p=shares)) for length in lengths]


def _unwritten(reference: Reference) -> list[int]:
    """Return the ids that no sample holds; characters end a document, but stand in it as well."""
    tokenizer = reference.tokenizer
    return tokenizer.undrawable + ([] if tokenizer.kind == "char" else tokenizer.end)


def shuffled_words(
    reference: Reference, passages: Sequence[Passage], rng: np.random.Generator
) -> list[Passage]:
    """Return the passages with their words, as spaces divide them, in a random order."""
    found = []
    for passage in passages:
        words = passage.text.split()
        text = " ".join(words[k] for k in rng.permutation(len(words)))
        found.append(Passage(np.asarray(reference.tokenizer.encode(text), dtype=np.int64), text))
    return found
