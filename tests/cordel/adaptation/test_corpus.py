"""Encoded documents: what is written comes back."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from cordel.adaptation.chat import Chat, ChatFormat
from cordel.adaptation.corpus import ROWS, EncodedWriter, encoded, read_encoded
from cordel.corpus.documents import Document
from cordel.runtime.errors import ArtifactError
from cordel.tokens import Encoded


def document(name: str, *ids: int) -> Encoded:
    return Encoded(id=name, ids=list(ids), bytes=9, unknown_bytes=2)


def written(path: Path, documents: list[Encoded]) -> EncodedWriter:
    writer = EncodedWriter(path)
    for one in documents:
        writer.write(one)
    writer.close()
    return writer


def test_documents_come_back(tmp_path: Path) -> None:
    # 128,255 is Llama 3's last id; 16 bits would make it 62,719.
    documents = [document("coração", 2, 65_535, 65_536, 128_255, 3), document("vazio", 2, 3)]
    written(tmp_path / "d.parquet", documents)
    assert read_encoded(tmp_path / "d.parquet") == documents


def test_the_writer_counts_documents_and_ids(tmp_path: Path) -> None:
    writer = written(tmp_path / "d.parquet", [document("a", 2, 7, 3), document("b", 2, 3)])
    assert (writer.documents, writer.tokens) == (2, 5)


@pytest.mark.parametrize(
    ("count", "groups"), [(ROWS - 1, [ROWS - 1]), (ROWS, [ROWS]), (ROWS + 1, [ROWS, 1])]
)
def test_nothing_is_lost_between_row_groups(tmp_path: Path, count: int, groups: list[int]) -> None:
    path = tmp_path / "d.parquet"
    documents = [document(str(n), 2, n, 3) for n in range(count)]
    written(path, documents)
    meta = pq.ParquetFile(path).metadata
    assert [meta.row_group(n).num_rows for n in range(meta.num_row_groups)] == groups
    assert read_encoded(path) == documents


def test_no_documents_are_no_documents(tmp_path: Path) -> None:
    writer = written(tmp_path / "d.parquet", [])
    assert (writer.documents, writer.tokens) == (0, 0)
    assert read_encoded(tmp_path / "d.parquet") == []


def test_the_same_documents_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / name, [document("um", 2, 7, 3)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("content", [b"", b"PAR1 not really PAR1"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.parquet"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"d\.parquet: cannot be read .*rerun prepare_cpt"):
        read_encoded(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"d\.parquet: no such file; `dvc repro` makes it"):
        read_encoded(tmp_path / "d.parquet")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"id": ["a"], "ids": ["not a list"]}), path)
    with pytest.raises(ArtifactError, match=r"d\.parquet: column 'ids' is string, .*prepare_cpt"):
        read_encoded(path)


def test_documents_are_encoded_whole_and_their_bytes_counted() -> None:
    tokenizer = Tokenizer(WordLevel({"?": 0, "olá": 1}, unk_token="?"))  # noqa: S106
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    form = ChatFormat(
        opening=(),
        turn=(),
        closing=(),
        stop=(3,),
        begin=(2,),
        end=(3,),
        pad=3,
        unknown=0,
        symbols=(2, 3),
    )
    documents = [Document("d1", "web", "título", "olá coração")]
    # olá and the space have 5 bytes, coração 9, which the vocabulary lacks.
    assert list(encoded(Chat(tokenizer, form), documents)) == [
        Encoded(id="d1", ids=[2, 1, 0, 3], bytes=14, unknown_bytes=9)
    ]
