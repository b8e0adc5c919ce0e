"""The token format: what is written is what is read, and a damaged folder is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cordel import tokens
from cordel.runtime.errors import ArtifactError, InputError
from cordel.tokens import (
    Encoded,
    SplitMeta,
    TokensMeta,
    read_ids,
    read_meta,
    read_split,
    write_meta,
    write_split,
)

# "coração" has 7 characters and 9 bytes; the second document hides a 4-byte emoji.
DOCUMENTS = [
    Encoded(id="a", ids=[2, 40, 65535, 3], bytes=9, unknown_bytes=0),
    Encoded(id="b", ids=[2, 3], bytes=0, unknown_bytes=0),
    Encoded(id="ç", ids=[2, 1, 3], bytes=4, unknown_bytes=4),
]
META = TokensMeta(
    vocab_size=65536,
    tokenizer="bpe3k2",
    tokenizer_sha256="0" * 64,
    recipe="web",
    normalisation={"lowercase": True},
    begin=[2],
    end=[3],
    context=[2],
    splits={"train": SplitMeta(documents=3, tokens=9, bytes=13, unknown_bytes=4)},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the split ``train``."""
    write_split(tmp_path, "train", DOCUMENTS)
    write_meta(tmp_path, META)
    return tmp_path


def test_documents_come_back_as_they_were_written(folder: Path) -> None:
    assert read_split(folder, "train") == DOCUMENTS


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_documents_come_back_from_several_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(tokens, "ROWS", rows)
    write_split(tmp_path, "train", iter(DOCUMENTS))
    write_meta(tmp_path, META)
    assert read_split(tmp_path, "train") == DOCUMENTS


def test_the_totals_count_documents_tokens_and_bytes(tmp_path: Path) -> None:
    # 4 + 2 + 3 tokens, 9 + 0 + 4 bytes, 0 + 0 + 4 of them hidden.
    assert write_split(tmp_path, "train", DOCUMENTS) == META.splits["train"]


def test_the_array_is_flat_little_endian_and_two_bytes_an_id(folder: Path) -> None:
    expected = [2, 40, 65535, 3, 2, 3, 2, 1, 3]
    assert (folder / "train.bin").read_bytes() == np.array(expected, dtype="<u2").tobytes()
    assert read_ids(folder, "train").tolist() == expected


def test_the_array_is_mapped_read_only(folder: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        read_ids(folder, "train")[0] = 7


def test_an_id_beyond_two_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OverflowError, match="65536"):
        write_split(tmp_path, "x", [Encoded(id="a", ids=[65536], bytes=1, unknown_bytes=0)])


def test_writing_twice_gives_the_same_bytes(folder: Path) -> None:
    before = [(folder / name).read_bytes() for name in ("train.bin", "train.parquet")]
    write_split(folder, "train", DOCUMENTS)
    assert [(folder / name).read_bytes() for name in ("train.bin", "train.parquet")] == before


@pytest.mark.parametrize("documents", [[], [DOCUMENTS[1]]], ids=["none", "only an empty one"])
def test_a_split_without_text_is_refused(tmp_path: Path, documents: list[Encoded]) -> None:
    with pytest.raises(InputError, match=r"split 'val' has no text; use more documents"):
        write_split(tmp_path, "val", documents)


def test_an_array_of_another_length_than_its_table_is_refused(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / "train.parquet").slice(1), folder / "train.parquet")
    with pytest.raises(ArtifactError, match=r"train\.bin and train\.parquet disagree"):
        read_split(folder, "train")


@pytest.mark.parametrize("size", [None, 0, 3, 16, 20])  # 18 bytes are right
def test_an_array_of_another_length_than_meta_json_says_is_refused(
    folder: Path, size: int | None
) -> None:
    path = folder / "train.bin"
    content = path.read_bytes()
    path.unlink()
    if size is not None:
        path.write_bytes(content.ljust(size, b"\0")[:size])
    with pytest.raises(
        ArtifactError, match=r"train\.bin: missing, empty or cut short \(\d+ bytes, .* 9 ids of 2\)"
    ):
        read_ids(folder, "train")


def test_an_id_outside_the_vocabulary_is_refused(folder: Path) -> None:
    write_meta(folder, replace(META, vocab_size=65535))
    with pytest.raises(ArtifactError, match=r"train\.bin: id 65535 of a vocabulary of 65535"):
        read_ids(folder, "train")


def test_a_split_that_meta_json_does_not_know_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"meta\.json: no split 'val'"):
        read_ids(folder, "val")


def test_what_a_folder_says_about_itself_comes_back(tmp_path: Path) -> None:
    write_meta(tmp_path, META)
    assert read_meta(tmp_path) == META


@pytest.mark.parametrize("content", ["[]", "{}", '{"splits": {}}', '{"splits": {"a": {"b": 1}}}'])
def test_a_file_that_describes_no_tokens_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "meta.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"meta\.json: .+; rerun (encode_corpus|the stage)"):
        read_meta(tmp_path)


def test_a_missing_table_is_refused(folder: Path) -> None:
    (folder / "train.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"train\.parquet: no such file; `dvc repro`"):
        read_split(folder, "train")
