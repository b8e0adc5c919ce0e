"""Planted overlaps are found, each of its kind; what is clean is not; nothing grows with train."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordel.corpus import leakage
from cordel.corpus.documents import Document
from cordel.corpus.leakage import (
    LeakageParams,
    Overlap,
    by_part,
    find_overlaps,
    lsh_recall,
    summarise_overlaps,
)
from cordel.runtime.errors import ParamsError
from cordel.runtime.params import parse

VALUES: dict[str, Any] = {
    "shingle_words": 3,
    "permutations": 128,
    "bands": 32,
    "min_similarity": 0.7,
    "contained_share": 0.8,
    "seed": 42,
}
PARAMS = LeakageParams(**VALUES)
ITEM = "A feira do bairro abre no sábado, às nove horas."  # ten words, eight shingles


def words(start: int, count: int) -> str:
    """Return words that occur nowhere else."""
    return " ".join(f"p{number}" for number in range(start, start + count))


def overlap(item: str, *train: str, **changes: Any) -> Overlap:
    """Return the overlap of one item with some training texts."""
    texts = [Document(f"t{n}", "", "", text) for n, text in enumerate(train)]
    params = LeakageParams(**(VALUES | changes))
    return find_overlaps([Document("i", "", "", item)], texts, params)["i"]


@pytest.mark.parametrize("train", [ITEM, "a FEIRA do bairro -- abre\n\nno sábado; às nove horas"])
def test_an_equal_text_is_found_whatever_its_case_and_punctuation(train: str) -> None:
    assert overlap(ITEM, words(0, 50), train) == Overlap(("exact", "near", "contained"), 1.0, 1.0)


def test_accents_are_not_folded() -> None:
    assert "exact" not in overlap("a avó e o avô", "a avo e o avo").kinds


def test_a_near_duplicate_is_found_by_its_signature_alone() -> None:
    # 40 words and 4 more in the middle: of 38 shingles 36 are also in the other text, of 42.
    item = words(0, 40)
    found = overlap(item, f"{words(0, 20)} {words(900, 4)} {words(20, 20)}", contained_share=1.0)
    assert found.kinds == ("near",)
    assert found.similarity == pytest.approx(36 / 44, abs=0.1)  # three standard errors
    assert found.share == 36 / 38


def test_the_similarity_is_that_of_the_closest_text() -> None:
    item = words(0, 40)
    near = f"{words(0, 30)} {words(900, 4)} {words(30, 10)}"
    assert overlap(item, near, item, near).similarity == 1.0


def test_a_short_prompt_in_a_long_document_is_contained_and_not_near() -> None:
    found = overlap(ITEM, f"{words(0, 400)} {ITEM} {words(400, 400)}")
    assert found.kinds == ("contained",)
    assert found.share == 1.0


def test_shingles_may_stand_in_several_training_texts() -> None:
    # Two texts with half of the ten words each: shingles 1-3 and 6-8 of 8, 6/8 is below 0.8.
    halves = ("a feira do bairro abre", "no sábado às nove horas")
    assert overlap(ITEM, *halves).share == 6 / 8
    assert overlap(ITEM, *halves).kinds == ()
    assert overlap(ITEM, *halves, contained_share=0.75).kinds == ("contained",)


def test_words_in_another_order_are_clean() -> None:
    assert overlap(ITEM, "nove às sábado no abre bairro do feira a horas") == Overlap((), 0.0, 0.0)


@pytest.mark.parametrize(
    ("item", "train", "kinds"),
    [
        ("bom dia", "ele disse bom dia e saiu", ("contained",)),
        ("bom dia", "ele disse boa noite, dia bom", ()),
        ("+", "a + b", ()),  # no word: compared as it is, and equal to no longer text
        ("+", "+", ("exact", "near", "contained")),
        ("", "texto", ()),
    ],
)
def test_an_item_shorter_than_a_shingle_is_looked_for_whole(
    item: str, train: str, kinds: tuple[str, ...]
) -> None:
    assert overlap(item, train).kinds == kinds


def test_each_item_has_its_own_overlap() -> None:
    items = [Document("sim", "", "", ITEM), Document("não", "", "", words(0, 10))]
    found = find_overlaps(items, [Document("t", "", "", ITEM)], PARAMS)
    assert {name: bool(o.kinds) for name, o in found.items()} == {"sim": True, "não": False}


def test_without_training_texts_everything_is_clean() -> None:
    assert overlap(ITEM) == Overlap((), 0.0, 0.0)


def test_without_items_training_texts_are_not_even_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "signatures", lambda *_: pytest.fail("signed"))
    assert find_overlaps([], [Document("t", "", "", ITEM)], PARAMS) == {}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_size_of_a_batch_changes_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train = [words(0, 30), ITEM, words(50, 30), words(60, 30)]
    expected = overlap(words(55, 30), *train)
    monkeypatch.setattr(leakage, "BATCH", size)
    assert overlap(words(55, 30), *train) == expected
    assert expected.similarity > 0


def test_the_signature_bands_say_how_many_pairs_are_missed() -> None:
    # 1 - (1 - s^4)^32: 0.7^4 = 0.2401, 0.7599^32 = 1.53e-4; 0.5^4 = 1/16, (15/16)^32 = 0.1268.
    assert lsh_recall(0.7, PARAMS) == pytest.approx(1 - 1.53e-4, abs=1e-6)
    assert lsh_recall(0.5, PARAMS) == pytest.approx(0.8732, abs=1e-4)
    assert (lsh_recall(0.0, PARAMS), lsh_recall(1.0, PARAMS)) == (0.0, 1.0)


def test_bands_find_as_many_pairs_as_the_formula_says() -> None:
    # 300 pairs of 30 and 32 shingles, of which 20 are shared: s = 20/42, found with 0.81.
    texts = [(words(100 * n, 32), f"{words(100 * n + 10, 22)} {words(100 * n + 50, 12)}")
             for n in range(300)]  # fmt: skip
    items = [Document(f"i{n}", "", "", item) for n, (item, _) in enumerate(texts)]
    train = [Document(f"t{n}", "", "", text) for n, (_, text) in enumerate(texts)]
    found = find_overlaps(items, train, PARAMS)
    seen = np.mean([o.similarity > 0 for o in found.values()])
    assert seen == pytest.approx(lsh_recall(20 / 42, PARAMS), abs=0.08)  # 3.5 standard errors


@pytest.mark.slow
def test_memory_does_not_grow_with_the_training_texts() -> None:
    def train(count: int) -> Iterator[Document]:
        for number in range(count):
            yield Document(f"t{number}", "", "", words(40 * number, 40))

    def peak(count: int) -> int:
        tracemalloc.start()
        find_overlaps([Document("i", "", "", ITEM)], train(count), PARAMS)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # One batch and eight of them; held whole, eight would take about eight times as much.
    assert peak(8 * leakage.BATCH) < 1.5 * peak(leakage.BATCH)


# --- What follows from it -------------------------------------------------------------------------

OVERLAPS = {
    "a": Overlap(("exact", "near", "contained"), 1.0, 1.0),
    "b": Overlap(("contained",), 0.0, 0.9),
    "c": Overlap((), 0.2, 0.5),
}


def test_the_summary_counts_items_by_kind() -> None:
    expected = {"exact": 1, "near": 1, "contained": 2, "items": 3, "overlapping": 2, "clean": 1}
    assert summarise_overlaps(OVERLAPS) == expected | {"mean_share": pytest.approx(0.8)}
    assert summarise_overlaps({})["mean_share"] is None


def test_scores_are_of_all_rows_and_of_both_parts() -> None:
    rows = [("a", 1), ("b", 2), ("c", 4), ("c", 8)]
    parts = by_part(rows, lambda row: row[0], lambda part: sum(n for _, n in part), OVERLAPS)
    assert parts == {"all": 15, "clean": 12, "overlapping": 3}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["a"], {"all": 1, "clean": None, "overlapping": 1}),
        (["c"], {"all": 1, "clean": 1, "overlapping": None}),
        ([], {"all": None, "clean": None, "overlapping": None}),
    ],
)
def test_an_empty_part_has_no_score(rows: list[str], expected: dict[str, int | None]) -> None:
    assert by_part(rows, str, len, OVERLAPS) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contained_share": 0.0}, "contained_share is 0.0"),
        ({"contained_share": 1.1}, "contained_share is 1.1"),
        ({"min_similarity": 0.0}, "min_similarity is 0.0"),
        ({"bands": 30}, "permutations 128 is not a multiple of bands 30"),
        ({"shingle_words": 0}, "shingle_words is 0"),
        ({"seed": -1}, "'seed' is -1"),
        ({"share": 1.0}, "unknown key 'share'"),
    ],
)
def test_a_wrong_parameter_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        parse(VALUES | changes, LeakageParams, "leakage")


# --- The published splits -------------------------------------------------------------------------


@pytest.fixture
def canarim(shared: Path) -> dict[str, list[dict[str, str]]]:
    """Return the thesis' published SFT splits."""
    stem = shared / "data/canarim/canarim_sft_10k_"
    return {
        split: [json.loads(line) for line in Path(f"{stem}{split}.jsonl").open(encoding="utf-8")]
        for split in ("train", "val", "test")
    }


def documents(rows: list[dict[str, str]], *fields: str) -> list[Document]:
    """Return the fields of each row as a document."""
    return [
        Document(f"{n}", "", "", "\n".join(row[f] for f in fields)) for n, row in enumerate(rows)
    ]


PROMPT = ("instruction", "input")


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ("split", "fields", "rows", "distinct"),
    [
        ("val", PROMPT, 22, 19),
        ("test", PROMPT, 29, 18),
        ("val", (*PROMPT, "output"), 12, 12),
        ("test", (*PROMPT, "output"), 8, 8),
    ],
)
def test_the_published_overlap_with_train_is_that_of_the_thesis(
    split: str, fields: tuple[str, ...], rows: int, distinct: int, canarim: dict[str, Any]
) -> None:
    # Thesis section 5.2 counts rows of val and test by plain equality: 22 and 29 prompts, 12 and 8
    # with their answers. The README of the published data counts distinct prompts: 19 and 18.
    # Folding case and punctuation finds no further one.
    train, items = documents(canarim["train"], *fields), documents(canarim[split], *fields)
    texts = {document.text for document in train}
    strict = {d.id: d.text for d in items if d.text in texts}
    assert (len(strict), len(set(strict.values()))) == (rows, distinct)
    found = find_overlaps(items, train, LeakageParams(**(VALUES | {"shingle_words": 5})))
    assert {name for name, o in found.items() if "exact" in o.kinds} == strict.keys()
    counts = summarise_overlaps(found)
    assert counts["exact"] == rows < counts["near"] < counts["contained"]
