"""Interpolated modified Kneser-Ney n-grams over integer ids (Chen and Goodman 1998, sections 3, 4).

A reference line, a guardrail, and what v7 may learn from: counted from a text in seconds.
"""

from collections.abc import Iterable

import numpy as np

from cordel.runtime.params import require


class KneserNey:
    """An interpolated modified Kneser-Ney model of order n over integer ids.

    Each document is preceded by n - 1 copies of ``begin`` and ends with ``end``, so every id has a
    full context. N-grams are packed into one integer each and kept as sorted arrays; probabilities
    are looked up by binary search for all positions of a text at once.
    """

    def __init__(self, order: int, vocab_size: int, *, begin: int) -> None:
        """Choose the packing: ``vocab_size`` includes ``begin``."""
        self.order, self.vocab_size, self.begin = order, vocab_size, begin
        self.bits = max(1, (vocab_size - 1).bit_length())
        require(
            self.bits * order <= 63,
            f"order {order} x {self.bits} bits of vocabulary {vocab_size} is over 63; lower one",
        )
        self._levels: list[_Level] = []

    def _ngrams(self, documents: Iterable[np.ndarray]) -> np.ndarray:
        """Return the packed n-gram that ends at each id of the documents, ``int64[N]``."""
        parts = []
        for ids in documents:
            padded = np.concatenate([np.full(self.order - 1, self.begin), ids]).astype(np.int64)
            packed = np.zeros(len(ids), dtype=np.int64)
            for place in range(self.order):
                packed = packed << self.bits | padded[place : place + len(ids)]
            parts.append(packed)
        return np.concatenate(parts)

    def fit(self, documents: Iterable[np.ndarray]) -> "KneserNey":
        """Count the n-grams of ``documents``, each an array of ids that ends with the end id."""
        keys, counts = np.unique(self._ngrams(documents), return_counts=True)
        levels = [_Level(keys, counts, self.bits)]
        for length in range(self.order - 1, 0, -1):
            # Lower orders count distinct left extensions, not occurrences.
            keys, counts = np.unique(keys & ((1 << self.bits * length) - 1), return_counts=True)
            levels.append(_Level(keys, counts, self.bits))
        self._levels = levels[::-1]
        return self

    def nats(self, document: np.ndarray) -> float:
        """Return the summed negative log-likelihood of one document's ids."""
        packed = self._ngrams([document])
        probability = np.full(len(packed), 1 / self.vocab_size)
        for length, level in enumerate(self._levels, start=1):
            grams = packed & ((1 << self.bits * length) - 1)
            probability = level.interpolate(grams, probability)
        return float(-np.log(probability).sum())


class _Level:
    """All n-grams of one length: discounted shares, and how much is left to the shorter context."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, bits: int) -> None:
        self.keys, self.bits = keys, bits
        self.discounted = counts - discounts(counts)[np.minimum(counts, 3)]
        contexts, start = np.unique(keys >> bits, return_index=True)
        self.contexts = contexts
        self.totals = np.add.reduceat(counts, start)
        self.left = np.add.reduceat(counts - self.discounted, start) / self.totals

    def interpolate(self, grams: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Return p(last id | the ids before it), given the probabilities of the shorter context."""
        context = grams >> self.bits
        place = np.minimum(np.searchsorted(self.contexts, context), len(self.contexts) - 1)
        seen = self.contexts[place] == context
        gram = np.minimum(np.searchsorted(self.keys, grams), len(self.keys) - 1)
        share = np.where(self.keys[gram] == grams, self.discounted[gram], 0.0) / self.totals[place]
        return np.where(seen, share + self.left[place] * shorter, shorter)


def discounts(counts: np.ndarray) -> np.ndarray:
    """Return D for counts 0, 1, 2 and 3 or more (Chen and Goodman 1998, equation 26).

    Where a text is too small to estimate one, half the count is taken.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2) if n1 else 0.0
    found = [0.0]
    for k, low, high in ((1, n1, n2), (2, n2, n3), (3, n3, n4)):
        estimate = k - (k + 1) * y * high / low if low and y else k / 2
        found.append(estimate if 0 < estimate < k else k / 2)
    return np.asarray(found)
