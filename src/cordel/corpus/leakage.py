"""Overlap of an evaluation set with what models were trained on, and scores with and without it.

Three kinds, of which any one counts. ``exact``: equal once case, punctuation and white space are
folded. ``near``: an estimated Jaccard similarity of word shingles (MinHash, Broder 1997) from a
threshold, among the pairs that share a band. ``contained``: a share of the item's shingles occurs
anywhere in the training texts, which finds a short prompt inside a long document, where the
Jaccard similarity is small. That is the n-gram measure of Brown et al. 2020, "Language Models are
Few-Shot Learners" (GPT-3), appendix C, with a share in place of their one 13-gram.

Training texts pass through once, in batches. What stays in memory is the evaluation set: its
folded texts, signatures and shingles, whatever the size of the corpus.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from cordel.corpus.documents import BATCH, Document
from cordel.corpus.instructions import folded
from cordel.corpus.splits import SplitParams, signatures
from cordel.runtime.params import require

KINDS = ("exact", "near", "contained")
T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageParams:
    """The section ``leakage`` of params.yaml."""

    shingle_words: int
    permutations: int  # numbers in a signature: the estimate's standard error is 1/(2 sqrt(n))
    bands: int  # more bands find less similar pairs, see ``lsh_recall``
    min_similarity: float  # estimated Jaccard similarity to a training text, from which: near
    contained_share: (
        float  # of the item's shingles anywhere in training texts, from which: contained
    )
    seed: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(
            0 < self.contained_share <= 1,
            f"contained_share is {self.contained_share}, expected 0 < x <= 1",
        )
        _ = self.signature

    @property
    def signature(self) -> SplitParams:
        """How texts are signed; the shares of splits play no part."""
        return SplitParams(
            val=0.1,
            test=0.1,
            seed=self.seed,
            shingle_words=self.shingle_words,
            permutations=self.permutations,
            bands=self.bands,
            min_similarity=self.min_similarity,
            reserved_sources=(),
        )


@dataclass(frozen=True, slots=True)
class Overlap:
    """What one item of an evaluation set shares with the training texts.

    Attributes:
        kinds: Those of ``KINDS`` that hold; none for a clean item.
        similarity: The highest estimate for a training text that shares a band, or 0.
        share: Of the item's shingles, those that occur in some training text.
    """

    kinds: tuple[str, ...]
    similarity: float
    share: float


def lsh_recall(similarity: float, params: LeakageParams) -> float:
    """Return the probability that a pair of this Jaccard similarity shares a band.

    With b bands of r numbers it is 1 - (1 - s^r)^b (Leskovec, Rajaraman and Ullman, "Mining of
    Massive Datasets", section 3.4.2). The rest are the false negatives of ``near``.
    """
    rows = params.permutations // params.bands
    return 1 - (1 - similarity**rows) ** params.bands


def find_overlaps(
    items: Iterable[Document], train: Iterable[Document], params: LeakageParams
) -> dict[str, Overlap]:
    """Return the overlap of each item, by its id, with all of ``train`` taken together.

    An item shorter than a shingle is one shingle, and is looked for at its own length.
    """
    index = _Index([_folded(item) for item in items], params)
    for batch in _batches(map(_folded, train), BATCH):
        index.compare(batch)
    return dict(index.overlaps())


class _Index:
    """The evaluation set, ready to be compared with batches of training texts."""

    def __init__(self, items: list[Document], params: LeakageParams) -> None:
        """Sign the items and note their shingles."""
        self.params, self.items = params, items
        self.texts = {item.text for item in items}
        self.widths = sorted({_width(item.text, params) for item in items})
        self.shingles = {shingle for item in items for shingle in self._shingles(item)}
        self.met_texts: set[str] = set()
        self.met_shingles: set[str] = set()
        self.similarity = np.zeros(len(items))
        self.signature = signatures(items, params.signature)[1] if items else np.empty((0, 0))
        self.buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        for place, row in enumerate(self.signature):
            for key in self._keys(row):
                self.buckets[key].append(place)

    def compare(self, batch: list[Document]) -> None:
        """Note what the items share with these training texts."""
        if not self.items:
            return
        for document, row in zip(batch, signatures(batch, self.params.signature)[1], strict=True):
            if document.text in self.texts:
                self.met_texts.add(document.text)
            for width in self.widths:
                found = self.shingles.intersection(_shingles(document.text, width))
                self.met_shingles |= found
            self._estimate(row)

    def overlaps(self) -> Iterator[tuple[str, Overlap]]:
        """Yield the id and overlap of each item."""
        for item, similarity in zip(self.items, self.similarity.tolist(), strict=True):
            shingles = self._shingles(item)
            share = sum(shingle in self.met_shingles for shingle in shingles) / len(shingles)
            holds = (
                item.text in self.met_texts,
                similarity >= self.params.min_similarity,
                share >= self.params.contained_share,
            )
            kinds = tuple(kind for kind, true in zip(KINDS, holds, strict=True) if true)
            yield item.id, Overlap(kinds, similarity, share)

    def _estimate(self, row: np.ndarray) -> None:
        """Raise the similarity of the items that share a band with a training text's signature."""
        close = {place for key in self._keys(row) for place in self.buckets.get(key, ())}
        if close:
            places = np.fromiter(close, dtype=np.int64)
            estimate = (self.signature[places] == row).mean(axis=1)
            self.similarity[places] = np.maximum(self.similarity[places], estimate)

    def _keys(self, row: np.ndarray) -> Iterator[tuple[int, bytes]]:
        bands = row.reshape(self.params.bands, -1)
        return ((number, band.tobytes()) for number, band in enumerate(bands))

    def _shingles(self, item: Document) -> list[str]:
        return _shingles(item.text, _width(item.text, self.params))


def _folded(document: Document) -> Document:
    return Document(document.id, "", "", folded(document.text))


def _width(text: str, params: LeakageParams) -> int:
    """Return the words of a shingle of a folded text: all of a short text's, but at least one."""
    return max(1, min(params.shingle_words, text.count(" ") + 1))


def _shingles(text: str, width: int) -> list[str]:
    words = text.split(" ")
    return [" ".join(words[i : i + width]) for i in range(len(words) - width + 1)]


def _batches(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    while batch := list(islice(documents, size)):
        yield batch


# --- What follows from it -------------------------------------------------------------------------


def summarise_overlaps(overlaps: Mapping[str, Overlap]) -> dict[str, Any]:
    """Return counts of items by kind, of any kind and of none, and the mean share of shingles."""
    values = list(overlaps.values())
    counts = {kind: sum(kind in o.kinds for o in values) for kind in KINDS}
    overlapping = sum(bool(o.kinds) for o in values)
    return counts | {
        "items": len(values),
        "overlapping": overlapping,
        "clean": len(values) - overlapping,
        "mean_share": sum(o.share for o in values) / len(values) if values else None,
    }


def by_part(
    rows: Sequence[T],
    id_of: Callable[[T], str],
    score: Callable[[Sequence[T]], S],
    overlaps: Mapping[str, Overlap],
) -> dict[str, S | None]:
    """Return ``score`` of all rows, of the clean ones and of the others; None of no rows at all."""
    parts = {
        "all": rows,
        "clean": [row for row in rows if not overlaps[id_of(row)].kinds],
        "overlapping": [row for row in rows if overlaps[id_of(row)].kinds],
    }
    return {name: score(part) if part else None for name, part in parts.items()}
