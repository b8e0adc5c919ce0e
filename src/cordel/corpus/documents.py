"""The document format: Parquet rows (id, source, title, text), read and written in batches.

A contract between the corpus stages, so writer and reader live here and nothing else does. Neither
side ever holds a corpus: rows pass through in batches of ``BATCH`` documents.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cordel.runtime.files import reading
from cordel.runtime.params import require
from cordel.runtime.tables import read_batches

BATCH = 512  # documents a row group: a few megabytes, whatever the size of the corpus
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "title", "text")])


@dataclass(frozen=True, slots=True)
class Document:
    """One text unit: a web page, an article, a chapter. ``id`` is unique in its corpus."""

    id: str
    source: str
    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationParams:
    """The section ``evaluation`` of params.yaml."""

    max_documents: int  # test documents, the same for every run and arm

    def __post_init__(self) -> None:
        """Check the range."""
        require(
            self.max_documents > 0, f"max_documents is {self.max_documents}, expected at least 1"
        )


class DocumentWriter:
    """Write documents one by one to one Parquet file, at ``path`` only once it is complete."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` under a temporary name beside it."""
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Timestamps and library versions would make equal corpora differ in bytes; zstd does not.
        self._parquet = pq.ParquetWriter(self._partial, SCHEMA, compression="zstd")
        self._rows: list[Document] = []
        self.count = 0

    def write(self, document: Document) -> None:
        """Append one document."""
        self._rows.append(document)
        self.count += 1
        if len(self._rows) == BATCH:
            self._flush()

    def _flush(self) -> None:
        columns = [[getattr(row, name) for row in self._rows] for name in SCHEMA.names]
        self._parquet.write_table(pa.table(columns, schema=SCHEMA))
        self._rows.clear()

    def __enter__(self) -> "DocumentWriter":
        """Return the open writer."""
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Complete the file, or delete the partial one if the block failed."""
        try:
            try:
                if error is None and self._rows:
                    self._flush()
            finally:
                self._parquet.close()
            if error is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write ``documents`` to ``path`` and return how many there were."""
    with DocumentWriter(path) as writer:
        for document in documents:
            writer.write(document)
    return writer.count


def read_documents(path: Path, *, limit: int | None = None) -> Iterator[Document]:
    """Yield the documents of ``path`` in order, a batch in memory at a time.

    With ``limit`` only so many: those whose ids have the lowest hashes. A smaller limit thus gives
    a subset of a larger one, and two recipes keep the same documents.

    Raises:
        ArtifactError: The file is missing, not Parquet or no such table.
    """
    chosen = _lowest_hashes(path, limit) if limit is not None else None
    for batch in read_batches(path, SCHEMA, rows=BATCH):
        for document in map(Document, *(column.to_pylist() for column in batch.columns)):
            if chosen is None or document.id in chosen:
                yield document


def _lowest_hashes(path: Path, limit: int) -> set[str] | None:
    if count_documents(path) <= limit:
        return None
    batches = read_batches(path, pa.schema([SCHEMA.field("id")]))
    ids = [name for batch in batches for name in batch.column(0).to_pylist()]
    return set(
        heapq.nsmallest(limit, ids, key=lambda i: blake2b(i.encode(), digest_size=8).digest())
    )


def count_documents(path: Path) -> int:
    """Return the number of documents in ``path`` without reading them.

    Raises:
        ArtifactError: The file is missing or not Parquet.
    """
    with reading(path):
        return pq.read_metadata(path).num_rows
