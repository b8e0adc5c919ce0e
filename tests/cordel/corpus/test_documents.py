"""The document format: what is written comes back, and a limit keeps nested subsets."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cordel.corpus.documents import (
    BATCH,
    Document,
    DocumentWriter,
    count_documents,
    read_documents,
    write_documents,
)
from cordel.runtime.errors import ArtifactError


def documents(count: int, text: str = "São João, nº {}.\n\tQuê? 😀") -> list[Document]:
    """Return ``count`` documents that differ in id and text."""
    return [Document(f"d{i}", "forum", f"Título {i}", text.format(i)) for i in range(count)]


def ids(path: Path, limit: int | None = None) -> list[str]:
    """Return the ids that are read from ``path``."""
    return [document.id for document in read_documents(path, limit=limit)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of a thousand documents."""
    path = tmp_path_factory.mktemp("corpus") / "documents.parquet"
    write_documents(path, documents(1000))
    return path


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1])
def test_documents_come_back_in_order_around_a_full_batch(tmp_path: Path, count: int) -> None:
    path = tmp_path / "novo" / "documents.parquet"
    assert write_documents(path, documents(count)) == count
    assert list(read_documents(path)) == documents(count)
    assert count_documents(path) == count


def test_equal_documents_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_documents(tmp_path / name, documents(600))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("before", ["nothing", "an older file"])
def test_a_block_that_fails_leaves_nothing_half_written(tmp_path: Path, before: str) -> None:
    path = tmp_path / "documents.parquet"
    if before == "an older file":
        write_documents(path, documents(2))
    present = list(tmp_path.iterdir())

    def source() -> Iterator[Document]:
        yield from documents(BATCH + 5)
        raise OSError("a fonte secou")

    with pytest.raises(OSError, match="a fonte secou"):
        write_documents(path, source())
    assert list(tmp_path.iterdir()) == present
    assert count_documents(path) == 2 if present else not path.exists()


def test_the_file_is_absent_until_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    with DocumentWriter(path) as writer:
        writer.write(documents(1)[0])
        assert not path.exists()
    assert count_documents(path) == 1


@pytest.mark.parametrize("limit", [0, 1, 700, 1000, 1001])
def test_a_limit_gives_so_many_documents_in_their_order(path: Path, limit: int) -> None:
    found = ids(path, limit)
    assert len(found) == min(limit, 1000)
    assert found == sorted(found, key=lambda name: int(name[1:]))


def test_a_smaller_limit_gives_a_subset_of_a_larger_one(path: Path) -> None:
    assert set(ids(path, 50)) < set(ids(path, 51)) < set(ids(path, 400))


def test_a_limit_does_not_take_the_first_documents(path: Path) -> None:
    # 500 of 1000: the first half should hold 250 of them, with a standard deviation of 8.
    first_half = [name for name in ids(path, 500) if int(name[1:]) < 500]
    assert 210 < len(first_half) < 290


def test_a_limit_looks_at_the_whole_id(path: Path) -> None:
    # 500 of 1000 ids: each last digit should come 50 times, with a standard deviation of 5.
    digits = Counter(name[-1] for name in ids(path, 500))
    assert len(digits) == 10
    assert all(25 < count < 75 for count in digits.values())


def test_two_recipes_keep_the_same_documents(path: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "outra", documents(1000, "outro texto {}")[::-1])
    assert set(ids(tmp_path / "outra", 100)) == set(ids(path, 100))


@pytest.mark.parametrize("limit", [None, 3])
def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path, limit: int | None) -> None:
    with pytest.raises(ArtifactError, match=r"nada\.parquet: no such file; `dvc repro`"):
        ids(tmp_path / "nada.parquet", limit)


@pytest.mark.parametrize("content", [None, b"", b"isto n\xc3\xa3o \xc3\xa9 parquet"])
def test_counting_a_missing_or_broken_file_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "documents.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"documents\.parquet: (cannot be read|no such)"):
        count_documents(path)
