"""Documents as ids of the base's tokenizer: the format between prepare_cpt and its readers.

One Parquet row a document: id, ids (begin and end included), bytes of its text, and those of them
that hide behind an unknown id. (``tokens.py`` stores 16 bits an id; Llama has 128,256 ids.)
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cordel.adaptation.chat import Chat
from cordel.corpus.documents import Document
from cordel.runtime.tables import read_rows
from cordel.tokens import Encoded

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("ids", pa.list_(pa.int32())),
        ("bytes", pa.int64()),
        ("unknown_bytes", pa.int64()),
    ]
)
ROWS = 512


def encoded(chat: Chat, documents: Iterable[Document]) -> Iterator[Encoded]:
    """Yield documents as ids, with the bytes that they stand for."""
    for document in documents:
        yield Encoded(
            id=document.id,
            ids=chat.document(document.text),
            bytes=len(document.text.encode()),
            unknown_bytes=chat.unknown_bytes(document.text),
        )


class EncodedWriter:
    """Write encoded documents one by one; counts them and their ids."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._parquet = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[Encoded] = []
        self.documents = self.tokens = 0

    def write(self, document: Encoded) -> None:
        """Append one document."""
        self._rows.append(document)
        self.documents += 1
        self.tokens += len(document.ids)
        if len(self._rows) == ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = [[getattr(row, name) for row in self._rows] for name in SCHEMA.names]
        self._parquet.write_table(pa.table(columns, schema=SCHEMA))
        self._rows.clear()

    def close(self) -> None:
        """Write what is left."""
        if self._rows:
            self._flush()
        self._parquet.close()


def read_encoded(path: Path) -> list[Encoded]:
    """Return the documents of ``path``.

    Raises:
        ArtifactError: It is missing or no such file.
    """
    rows: list[Any] = read_rows(path, SCHEMA, maker="prepare_cpt")
    return [Encoded(**row) for row in rows]
