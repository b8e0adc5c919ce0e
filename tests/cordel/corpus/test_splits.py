"""Splits: no cluster of copies is cut, adding a document moves no other, shares are as asked."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordel.corpus.documents import Document
from cordel.corpus.splits import (
    SplitParams,
    assign,
    cluster,
    place_of,
    read_clusters,
    read_splits,
    signatures,
    split_documents,
    write_splits,
)
from cordel.runtime.errors import InputError

PARAMS = SplitParams(
    val=0.2,
    test=0.2,
    seed=42,
    shingle_words=5,
    permutations=128,
    bands=16,
    min_similarity=0.7,
    reserved_sources=(),
)
# For signatures by hand: 8 numbers in bands of 2, and half of the numbers must agree.
SMALL = replace(PARAMS, permutations=8, bands=4, min_similarity=0.5)


def text(rng: random.Random, words: int = 120) -> str:
    """Return random words: two such texts share no five words in a row."""
    return " ".join(f"palavra{rng.randrange(5000)}" for _ in range(words))


def originals(count: int) -> list[Document]:
    """Return documents of which none resembles another."""
    return [Document(f"d{i}", "", "", text(random.Random(i))) for i in range(count)]


def copy(document: Document, number: int) -> Document:
    """Return a labelled copy with one word changed.

    That touches 5 of 116 shingles: the Jaccard similarity is 111/121 = 0.92.
    """
    words = document.text.split()
    words[10 * number] = "mudança"
    return Document(f"{document.id}-copy{number}", "", "", " ".join(words))


def splits(documents: list[Document], **changes: Any) -> dict[str, str]:
    """Return the split of each id."""
    columns = split_documents(documents, replace(PARAMS, **changes))
    return dict(zip(columns["id"], columns["split"], strict=True))


def test_no_cluster_of_near_duplicates_crosses_a_split() -> None:
    documents = originals(60)
    copies = [copy(d, number) for d in documents[::2] for number in (1, 2, 3)]
    columns = split_documents(documents + copies, PARAMS)
    family = [name.split("-")[0] for name in columns["id"]]
    assert columns["cluster"] == family  # d0, d0-copy1, ... are one cluster, called d0
    pairs = set(zip(family, columns["split"], strict=True))
    assert len(pairs) == 60  # one split a family


def test_case_and_punctuation_make_no_difference() -> None:
    documents = originals(20)
    loud = Document("loud", "", "", documents[7].text.upper().replace(" ", " - ") + "!")
    assert split_documents([*documents, loud], PARAMS)["cluster"][-1] == "d7"


def test_a_text_that_quotes_half_of_another_is_no_copy() -> None:
    documents = originals(20)
    half = " ".join(documents[3].text.split()[:60]) + " " + text(random.Random(99), 60)
    # 56 of 116 shingles are shared: the Jaccard similarity is 56/176 = 0.32 < 0.7.
    columns = split_documents([*documents, Document("half", "", "", half)], PARAMS)
    assert columns["cluster"][-1] == "half"


def test_texts_shorter_than_a_shingle_are_compared_whole() -> None:
    texts = {"a": "Olá!", "b": "Oi.", "c": "olá"}
    short = [Document(name, "", "", text) for name, text in texts.items()]
    columns = split_documents([*originals(20), *short], PARAMS)
    assert columns["cluster"][-3:] == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("text", "shingles"),
    [
        ("...", [""]),
        ("A b!", ["a b"]),
        ("A b, c", ["a b c"]),
        ("A b, c d", ["a b c", "b c d"]),
        ("a a a a a", ["a a a", "a a a", "a a a"]),
    ],
)
def test_shingles_are_the_runs_of_words_or_the_text(
    monkeypatch: pytest.MonkeyPatch, text: str, shingles: list[str]
) -> None:
    noted = []

    class Noting:
        def __init__(self, num_perm: int, seed: int) -> None:
            self.numbers = num_perm * [seed]

        def update(self, items: list[str]) -> None:
            noted.extend(items)

        def digest(self) -> list[int]:
            return self.numbers

    monkeypatch.setattr("cordel.corpus.splits.RMinHash", Noting)
    signatures([Document("d", "", "", text)], replace(PARAMS, shingle_words=3))
    assert noted == shingles


@pytest.mark.parametrize("where", ["at the end", "at the start"])
def test_adding_a_document_moves_no_other(where: str) -> None:
    documents = [*originals(60), copy(originals(1)[0], 1)]
    new = Document("novo", "", "", text(random.Random(1000)))
    more = [*documents, new] if where == "at the end" else [new, *documents]
    before, after = splits(documents), splits(more)
    assert {name: after[name] for name in before} == before


def test_adding_a_copy_moves_no_other_and_joins_its_original() -> None:
    documents = originals(60)
    before, after = splits(documents), splits([*documents, copy(documents[5], 4)])
    assert after == before | {"d5-copy4": before["d5"]}


def test_the_same_documents_get_the_same_splits_and_another_seed_other_ones() -> None:
    documents = originals(60)
    assert splits(documents) == splits(documents)
    assert splits(documents) != splits(documents, seed=43)


@pytest.mark.parametrize(("split", "low", "high"), [("test", 410, 590), ("val", 880, 1120)])
def test_the_shares_are_about_right(split: str, low: int, high: int) -> None:
    # Of 10000: 500 with a standard deviation of 22, and 1000 with one of 30.
    params = replace(PARAMS, test=0.05, val=0.1)
    assert low < sum(assign(f"d{i}", params) == split for i in range(10_000)) < high


@pytest.mark.parametrize(
    ("split", "shares"),
    [
        ("train", {"val": 0.5, "test": 0.4999999}),
        ("val", {"val": 1e-7, "test": 0.5}),
        ("test", {"val": 0.5, "test": 1e-7}),
    ],
)
def test_a_split_that_gets_nothing_is_named(split: str, shares: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"split '{split}' gets none of the 30 documents; use"):
        splits(originals(30), **shares)


def test_no_documents_at_all_is_said() -> None:
    with pytest.raises(InputError, match="the corpus has no documents; check the section corpus"):
        splits([])


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        # 4 of 8 agree, which is just enough; then 2 of 8, which is not, on a whole band.
        ([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 2, 2, 2, 2]], [0, 0]),
        ([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 2, 2, 2, 2]], [0, 1]),
        # 4 of 8 agree on no whole band: such a pair is not found.
        ([[1, 1, 1, 1, 1, 1, 1, 1], [1, 2, 1, 2, 1, 2, 1, 2]], [0, 1]),
        # The first is like the second and the second like the third: one cluster.
        ([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 2, 2, 2, 2], [3, 3, 3, 3, 2, 2, 2, 2]], [0, 0, 0]),
        # The same with the pairs found in another order, which makes a chain and a branch.
        ([[1, 1, 2, 2, 3, 3, 4, 4], [9, 9, 2, 2, 8, 8, 4, 4], [9, 9, 7, 7, 8, 8, 6, 6]], [0, 0, 0]),
        ([[1, 1, 1, 1, 5, 5, 7, 7], [2, 2, 2, 2, 8, 8, 6, 6], [1, 1, 2, 2, 5, 5, 6, 6]], [0, 0, 0]),
        # All three share the first band; the last two are alike (5 of 8) and unlike the first.
        ([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 2, 2, 2, 2], [1, 1, 2, 9, 2, 9, 2, 9]], [0, 1, 1]),
    ],
)
def test_documents_that_share_a_band_are_joined_if_similar_enough(
    signature: list[list[int]], expected: list[int]
) -> None:
    assert cluster(np.array(signature, dtype=np.uint32), SMALL).tolist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val": 0.0}, "val is 0.0, expected 0 < x < 1"),
        ({"test": 1.0}, "test is 1.0, expected 0 < x < 1"),
        ({"val": 0.5, "test": 0.5}, "val + test is 1.0, expected < 1"),
        ({"min_similarity": 0.0}, "min_similarity is 0.0, expected 0 < x <= 1"),
        ({"min_similarity": 1.1}, "min_similarity is 1.1, expected 0 < x <= 1"),
        ({"shingle_words": 0}, "shingle_words is 0, expected at least 1"),
        ({"permutations": 100}, "permutations 100 is not a multiple of bands 16"),
        ({"permutations": 0}, "permutations 0 is not a multiple of bands 16"),
        ({"bands": 0}, "permutations 128 is not a multiple of bands 0"),
        ({"seed": -1}, "seed is -1, expected at least 0"),
    ],
)
def test_a_parameter_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(PARAMS, **changes)


def test_a_reserved_source_and_copies_of_it_are_in_no_split() -> None:
    documents = originals(30)
    laws = [replace(document, source="leis") for document in documents[:5]]
    columns = split_documents(
        [*laws, *documents[5:], copy(laws[2], 2)], replace(PARAMS, reserved_sources=("leis",))
    )
    reserved = [i for i, s in zip(columns["id"], columns["split"], strict=True) if s == "reserved"]
    assert reserved == ["d0", "d1", "d2", "d3", "d4", copy(laws[2], 2).id]


def test_a_reserved_source_that_does_not_exist_is_named_with_those_that_do() -> None:
    documents = [replace(document, source="blog") for document in originals(30)]
    with pytest.raises(InputError, match="names leis, which no document has; the corpus has blog"):
        splits(documents, reserved_sources=("leis",))


def test_clusters_are_read_back(tmp_path: Path) -> None:
    write_splits(tmp_path / "s", {"id": ["a", "b"], "cluster": ["a", "a"], "split": ["val", "val"]})
    assert read_clusters(tmp_path / "s") == {"a": "a", "b": "a"}
    assert read_splits(tmp_path / "s") == {"a": "val", "b": "val"}


def test_a_place_is_a_seeded_hash_between_0_and_1() -> None:
    places = [place_of(f"d{i}", 1) for i in range(1000)]
    assert all(0 <= place < 1 for place in places)
    assert 0.45 < sum(places) / 1000 < 0.55
    assert place_of("d1", 1) == places[1] != place_of("d1", 2)
