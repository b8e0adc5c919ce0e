"""Assign each document to train, val or test so that no split holds a copy of another's document.

Documents of reserved sources, and their copies, go to none of the three: no run from scratch sees
them, so that continued pretraining of our own model has something to adapt to.

Near-duplicates are found by MinHash over word shingles (Broder 1997) with banded locality-sensitive
hashing, and whole clusters are assigned by a hash, so that adding a document moves no other one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

from cordel.corpus.documents import Document
from cordel.runtime.errors import InputError
from cordel.runtime.params import require
from cordel.runtime.tables import read_rows

SPLITS = ("train", "val", "test")
RESERVED = "reserved"
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitParams:
    """The section ``splits`` of params.yaml."""

    val: float  # share of the clusters
    test: float
    seed: int
    shingle_words: int
    permutations: int  # numbers in a signature: the estimate's standard error is 1/(2 sqrt(n))
    bands: int  # more bands find less similar pairs: half are found at about (1/bands)^(bands/n)
    min_similarity: float  # estimated Jaccard similarity from which two documents are copies
    reserved_sources: tuple[str, ...]  # kept for continued pretraining

    def __post_init__(self) -> None:
        """Check ranges and the one combination that leaves nothing to train on."""
        for name in ("val", "test"):
            value = getattr(self, name)
            require(0 < value < 1, f"{name} is {value}, expected 0 < x < 1")
        require(self.val + self.test < 1, f"val + test is {self.val + self.test}, expected < 1")
        require(
            0 < self.min_similarity <= 1,
            f"min_similarity is {self.min_similarity}, expected 0 < x <= 1",
        )
        require(
            self.shingle_words > 0, f"shingle_words is {self.shingle_words}, expected at least 1"
        )
        require(
            0 < self.bands <= self.permutations and self.permutations % self.bands == 0,
            f"permutations {self.permutations} is not a multiple of bands {self.bands}",
        )
        require(self.seed >= 0, f"seed is {self.seed}, expected at least 0")


def signatures(documents: Iterable[Document], params: SplitParams) -> tuple[list[str], np.ndarray]:
    """Return the documents' ids and their MinHash signatures, ``uint32[documents, permutations]``.

    Case and punctuation are folded. A document shorter than a shingle is one shingle. The
    signatures are all that grows with the corpus: 4 bytes x permutations a document.
    """
    ids, rows = [], []
    width = params.shingle_words
    for document in documents:
        words = WORD.findall(document.text.lower())
        runs = zip(*(words[start:] for start in range(width)), strict=False)
        shingles = [" ".join(run) for run in runs] or [" ".join(words)]
        minhash = RMinHash(num_perm=params.permutations, seed=params.seed)
        minhash.update(shingles)
        ids.append(document.id)
        rows.append(np.asarray(minhash.digest(), dtype=np.uint32))
    if not ids:
        raise InputError("the corpus has no documents; check the section corpus of params.yaml")
    return ids, np.stack(rows)


def cluster(signature: np.ndarray, params: SplitParams) -> np.ndarray:
    """Return ``int64[documents]``: the lowest index among each document's near-duplicates.

    Documents that agree on a whole band are compared with the first of their group; those that
    are similar enough are joined, the others form the next group.
    """
    parent = np.arange(len(signature))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for band in np.split(signature, params.bands, axis=1):
        for group in _equal_rows(band):
            while len(group) > 1:
                first, others = group[0], group[1:]
                similar = (signature[others] == signature[first]).mean(
                    axis=1
                ) >= params.min_similarity
                for other in others[similar]:
                    low, high = sorted((root(first), root(other)))
                    parent[high] = low
                group = others[~similar]  # noqa: PLW2901
    return np.asarray([root(index) for index in range(len(parent))])


def _equal_rows(rows: np.ndarray) -> list[np.ndarray]:
    """Return the groups of at least two equal rows, as ascending arrays of their indices."""
    keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))
    _, inverse, counts = np.unique(keys.ravel(), return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    groups = np.split(order, np.cumsum(counts)[:-1])
    return [group for group in groups if len(group) > 1]


def place_of(cluster_id: str, seed: int) -> float:
    """Return a seeded hash of a cluster's id, in [0, 1): it falls into a share or not."""
    digest = blake2b(f"{seed}/{cluster_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def assign(cluster_id: str, params: SplitParams) -> str:
    """Return the split of a cluster by its place."""
    place = place_of(cluster_id, params.seed)
    if place < params.test:
        return "test"
    return "val" if place < params.test + params.val else "train"


def split_documents(documents: Iterable[Document], params: SplitParams) -> dict[str, list[str]]:
    """Return the columns ``id``, ``cluster`` (the id of its first document) and ``split``.

    Raises:
        InputError: There are no documents, a split gets none, or a reserved source has none.
    """
    reserved: set[str] = set()
    met: set[str] = set()

    def noted() -> Iterator[Document]:
        for document in documents:
            met.add(document.source)
            if document.source in params.reserved_sources:
                reserved.add(document.id)
            yield document

    ids, signature = signatures(noted(), params)
    if unknown := sorted(set(params.reserved_sources) - met):
        raise InputError(
            f"splits.reserved_sources names {', '.join(unknown)}, which no document has; "
            f"the corpus has {', '.join(sorted(met)) or 'no sources'}"
        )
    clusters = [ids[index] for index in cluster(signature, params)]
    kept_back = {name for name, member in zip(clusters, ids, strict=True) if member in reserved}
    splits = [RESERVED if name in kept_back else assign(name, params) for name in clusters]
    for split in SPLITS:
        if split not in splits:
            raise InputError(
                f"split {split!r} gets none of the {len(ids)} documents; use more documents, "
                "or larger splits.val and splits.test"
            )
    return {"id": ids, "cluster": clusters, "split": splits}


def write_splits(path: Path, columns: Mapping[str, list[str]]) -> None:
    """Write the table of ``split_documents``, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        pq.write_table(pa.table(dict(columns)), partial, compression="zstd")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_splits(path: Path) -> dict[str, str]:
    """Return the split of each document id.

    Raises:
        ArtifactError: The file is missing or not such a table.
    """
    return _column(path, "split")


def read_clusters(path: Path) -> dict[str, str]:
    """Return the cluster of near-duplicates of each document id.

    Raises:
        ArtifactError: As ``read_splits``.
    """
    return _column(path, "cluster")


def _column(path: Path, name: str) -> dict[str, str]:
    schema = pa.schema([(column, pa.string()) for column in ("id", name)])
    rows = read_rows(path, schema, maker="split_corpus")
    return {str(row["id"]): str(row[name]) for row in rows}
