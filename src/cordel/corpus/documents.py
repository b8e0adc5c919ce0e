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

from cordel.runtime.errors import ArtifactError

BATCH = 512  # documents a row group: a few megabytes, whatever the size of the corpus
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "title", "text")])


@dataclass(frozen=True, slots=True)
class Document:
    """One text unit: a web page, an article, a chapter. ``id`` is unique in its corpus."""

    id: str
    source: str
    title: str
    text: str


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
        ArtifactError: The file is missing or not Parquet.
    """
    chosen = _lowest_hashes(path, limit) if limit is not None else None
    with _opened(path) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=SCHEMA.names):
            columns = [column.to_pylist() for column in batch.columns]
            for document in map(Document, *columns):
                if chosen is None or document.id in chosen:
                    yield document


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error}); rerun the stage that makes it"
        ) from None


def _lowest_hashes(path: Path, limit: int) -> set[str] | None:
    with _opened(path) as file:
        if file.metadata.num_rows <= limit:
            return None
        ids = file.read(columns=["id"])["id"].to_pylist()
    return set(
        heapq.nsmallest(limit, ids, key=lambda i: blake2b(i.encode(), digest_size=8).digest())
    )


def count_documents(path: Path) -> int:
    """Return the number of documents in ``path`` without reading them.

    Raises:
        ArtifactError: The file is missing or not Parquet.
    """
    with _opened(path) as file:
        return file.metadata.num_rows
