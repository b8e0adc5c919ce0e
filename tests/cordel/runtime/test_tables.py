"""Tables that stages hand on: the agreed columns, of their types, without holes."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cordel.runtime.errors import ArtifactError
from cordel.runtime.tables import read_batches, read_rows

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64())])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.parquet"


def test_columns_come_in_the_order_of_the_schema_and_others_stay_out(path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2, 3], "more": [0, 0, 0], "id": ["a", "b", "ç"]}), path)
    assert read_rows(path, SCHEMA) == [
        {"id": i, "n": n} for i, n in zip("abç", (1, 2, 3), strict=True)
    ]
    assert [batch.num_rows for batch in read_batches(path, SCHEMA, rows=2)] == [2, 1]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"id": ["a"]}, "column 'n' is nothing, expected int64"),
        ({"id": ["a"], "n": ["1"]}, "column 'n' is string, expected int64"),
        ({"id": ["a", None], "n": [1, 2]}, "column 'id' has nulls"),
    ],
)
def test_another_table_is_refused(path: Path, columns: dict[str, Any], said: str) -> None:
    pq.write_table(pa.table(columns), path)
    with pytest.raises(ArtifactError, match=f"a.parquet: {said}; rerun encode_corpus"):
        read_rows(path, SCHEMA, maker="encode_corpus")
