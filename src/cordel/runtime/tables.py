"""Read the Parquet tables that stages write: the columns that were agreed on, nothing missing."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cordel.runtime.errors import ArtifactError
from cordel.runtime.files import MAKER, reading

ROWS = 8192


def read_batches(
    path: Path, schema: pa.Schema, *, rows: int = ROWS, maker: str = MAKER
) -> Iterator[pa.RecordBatch]:
    """Yield the columns of ``schema`` in its order, so many rows in memory at a time.

    Raises:
        ArtifactError: The file is missing or broken, lacks a column or has one of another type, or
            a value is null.
    """
    with reading(path, maker=maker):
        file = pq.ParquetFile(path)
    with file:
        for column in schema:
            place = file.schema_arrow.get_field_index(column.name)
            found = file.schema_arrow.field(place).type if place >= 0 else "nothing"
            # Arrow names the items of a list as the library's version likes.
            if str(found).replace("element:", "item:") != str(column.type):
                wrong = f"column {column.name!r} is {found}, expected {column.type}"
                raise ArtifactError(f"{path}: {wrong}; rerun {maker}")
        batches = file.iter_batches(batch_size=rows, columns=schema.names)
        while True:
            with reading(path, maker=maker):
                batch = next(batches, None)
            if batch is None:
                return
            batch = batch.select(schema.names)
            if empty := [n for n in schema.names if batch.column(n).null_count]:
                raise ArtifactError(f"{path}: column {empty[0]!r} has nulls; rerun {maker}")
            yield batch


def read_rows(path: Path, schema: pa.Schema, *, maker: str = MAKER) -> list[dict[str, object]]:
    """Return all rows of a table that fits in memory.

    Raises:
        ArtifactError: As ``read_batches``.
    """
    return [row for batch in read_batches(path, schema, maker=maker) for row in batch.to_pylist()]
