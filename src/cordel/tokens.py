"""The token format: per split one flat little-endian ``uint16`` array, plus a table of documents.

A contract between ``encode_corpus`` (writer) and the stages that train, score and sample (readers).
It is deliberately alone: a change here is a change of format, and both sides must run again.

Layout of a folder::

    <split>.bin       ids of all documents, each as begin + text + end (see Tokenizer)
    <split>.parquet   one row a document: id, tokens (with begin and end), bytes, unknown_bytes
    meta.json         TokensMeta
    tokenizer/        a copy of the tokenizer, so that the folder is complete

``bytes`` counts the UTF-8 bytes of the text that the document stands for, without separators;
``unknown_bytes`` those of them that the tokenizer hides behind unknown ids. They are what makes
bits per byte comparable across tokenizers (design.md 5.1).
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cordel.runtime.errors import ArtifactError, InputError
from cordel.runtime.files import read_json, write_json
from cordel.runtime.tables import read_rows

SCHEMA = pa.schema(
    [("id", pa.string())] + [(n, pa.int64()) for n in ("tokens", "bytes", "unknown_bytes")]
)
ROWS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """One document as ids."""

    id: str
    ids: list[int]
    bytes: int
    unknown_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitMeta:
    """Totals of one split."""

    documents: int
    tokens: int
    bytes: int
    unknown_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensMeta:
    """What a folder of tokens says about itself."""

    vocab_size: int
    tokenizer: str  # name
    tokenizer_sha256: str
    recipe: str
    normalisation: dict[str, Any]  # f: what the text went through before it was encoded
    begin: list[int]  # ids before and after each document, and before one that is scored
    end: list[int]
    context: list[int]
    splits: dict[str, SplitMeta]
    lossless: bool | None = (
        None  # evaluation: whether decode(encode(x)) = x on the common test text
    )


def write_split(folder: Path, split: str, documents: Iterable[Encoded]) -> SplitMeta:
    """Write one split, a document in memory at a time.

    Raises:
        InputError: The split has no text.
    """
    totals = {"documents": 0, "tokens": 0, "bytes": 0, "unknown_bytes": 0}
    rows: list[tuple[str, int, int, int]] = []
    with (
        (folder / f"{split}.bin").open("wb") as ids,
        pq.ParquetWriter(folder / f"{split}.parquet", SCHEMA, compression="zstd") as table,
    ):

        def flush() -> None:
            columns = [list(column) for column in zip(*rows, strict=True)]
            table.write_table(pa.table(columns, schema=SCHEMA))
            rows.clear()

        for document in documents:
            np.asarray(document.ids, dtype="<u2").tofile(ids)
            row = (document.id, len(document.ids), document.bytes, document.unknown_bytes)
            rows.append(row)
            totals["documents"] += 1
            for key, value in zip(("tokens", "bytes", "unknown_bytes"), row[1:], strict=True):
                totals[key] += value
            if len(rows) == ROWS:
                flush()
        if rows:
            flush()
    if not totals["bytes"]:
        raise InputError(f"{folder.name}: split {split!r} has no text; use more documents")
    return SplitMeta(**totals)


def write_meta(folder: Path, meta: TokensMeta) -> None:
    """Write ``meta.json``."""
    write_json(folder / "meta.json", asdict(meta))


def read_meta(folder: Path) -> TokensMeta:
    """Return what ``folder`` says about itself.

    Raises:
        ArtifactError: It is not a folder of tokens.
    """
    values = read_json(folder / "meta.json")
    try:
        splits = {name: SplitMeta(**split) for name, split in values["splits"].items()}
        return TokensMeta(**(values | {"splits": splits}))
    except (TypeError, KeyError, AttributeError):
        raise ArtifactError(
            f"{folder / 'meta.json'}: not a token folder; rerun encode_corpus"
        ) from None


def read_ids(folder: Path, split: str) -> np.ndarray:
    """Map a split's ids: ``uint16[tokens]``, read-only, not loaded into memory.

    Raises:
        ArtifactError: The file is missing, or not what ``meta.json`` says: cut short, or with an id
            that no vocabulary of this size has.
    """
    path = folder / f"{split}.bin"
    meta = read_meta(folder)
    if split not in meta.splits:
        raise ArtifactError(f"{folder / 'meta.json'}: no split {split!r}; rerun encode_corpus")
    expected = meta.splits[split].tokens
    size = path.stat().st_size if path.is_file() else 0
    if not size or size != 2 * expected:
        raise ArtifactError(
            f"{path}: missing, empty or cut short ({size} bytes, meta.json says {expected} ids of "
            "2); rerun encode_corpus"
        )
    ids = np.memmap(path, dtype="<u2", mode="r")
    highest = int(ids.max())
    if highest >= meta.vocab_size:
        raise ArtifactError(
            f"{path}: id {highest} of a vocabulary of {meta.vocab_size}; rerun encode_corpus"
        )
    return ids


def read_split(folder: Path, split: str) -> list[Encoded]:
    """Return every document of a split, for the evaluation splits, which are capped."""
    ids = read_ids(folder, split)
    rows: list[Any] = read_rows(folder / f"{split}.parquet", SCHEMA, maker="encode_corpus")
    if sum(row["tokens"] for row in rows) != len(ids):
        raise ArtifactError(
            f"{folder}: {split}.bin and {split}.parquet disagree; rerun encode_corpus"
        )
    ends = np.cumsum([row["tokens"] for row in rows])
    return [
        Encoded(
            id=row["id"],
            ids=ids[end - row["tokens"] : end].tolist(),
            bytes=row["bytes"],
            unknown_bytes=row["unknown_bytes"],
        )
        for row, end in zip(rows, ends.tolist(), strict=True)
    ]
