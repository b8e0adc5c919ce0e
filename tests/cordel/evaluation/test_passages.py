"""Features of passages, windows of documents, and noise: worked by hand on a toy of 11 pieces."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from cordel.evaluation.passages import (
    FEATURES,
    PERMUTATIONS,
    Passage,
    Reference,
    distinct_share,
    opening,
    shuffled_words,
    uniform_noise,
    unigram_noise,
    windows_of,
)
from cordel.kneser_ney import KneserNey
from cordel.runtime.errors import ArtifactError, ParamsError

PIECES = ["<unk>", "<s>", "</s>", "▁o", "▁gato", "▁viu", "s", "ão", "<0xC3>", ".", "▁9"]
UNK, S, END, O_, GATO, VIU, PLURAL, AO, BYTE, STOP, NINE = range(11)


class Toy:
    """A tokenizer of a few words."""

    kind = "subword"
    vocab_size = len(PIECES)
    unknown = UNK

    def __init__(self) -> None:
        self.begin, self.end, self.undrawable = [S], [END], [UNK, S]

    def encode(self, text: str) -> list[int]:
        """Return ids of whole words; others are unknown."""
        return [PIECES.index(p) if (p := f"▁{w}") in PIECES else UNK for w in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        """Join the pieces."""
        return "".join(self.pieces(ids)).replace("▁", " ").strip()

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Return the piece of each id."""
        return [PIECES[index] for index in ids]


class Letters(Toy):
    """The same, called a tokenizer of characters."""

    kind = "char"


DOCUMENTS = [np.array([O_, GATO, VIU, O_, GATO, PLURAL]), np.array([O_, GATO, VIU, STOP])]


@pytest.fixture
def reference() -> Reference:
    """Return what two small documents teach."""
    return Reference(Toy(), DOCUMENTS, order=2, seed=0)


def features(reference: Reference, *ids: int) -> dict[str, Any]:
    """Return the features of ids."""
    return reference.features(reference.passage(ids))


# --- features -------------------------------------------------------------------------------------


def test_ratios_are_of_the_ids_that_were_produced(reference: Reference) -> None:
    # Four ids: none unknown or a byte twice; "s" is short, "▁o" begins a word and is not.
    found = features(reference, O_, PLURAL, BYTE, UNK)
    assert [found[n] for n in ("unk_ratio", "fallback_ratio", "short_piece_ratio")] == [0.25] * 3


def test_ratios_do_not_change_with_the_text(reference: Reference) -> None:
    # g, a, t, o drawn one by one would be the one piece ▁gato if the text was cut again.
    drawn = Passage(np.array([PLURAL, AO, PLURAL, AO]), "gato")
    assert reference.features(drawn)["short_piece_ratio"] == 1.0


def test_repeats_are_fourgrams_that_came_before(reference: Reference) -> None:
    # Five 4-grams, the last equal to the first; seven 2-grams, four of them different.
    found = features(reference, O_, GATO, VIU, STOP, O_, GATO, VIU, STOP)
    assert found["repeat_ratio"] == pytest.approx(1 / 5)
    assert found["distinct_2"] == pytest.approx(4 / 7)


@pytest.mark.parametrize(("ids", "share"), [([3, 3, 3], 0.5), ([3, 4, 3], 1.0), ([3], 1.0)])
def test_the_share_of_different_bigrams(ids: list[int], share: float) -> None:
    assert distinct_share(np.array(ids), 2) == share


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("O gato comeu", 1 / 3),  # capitals do not count
        ("gatos 9 gato", 0.0),  # nor do numbers; "gatos" was read
        ("gat viram", 1.0),
        ("9 ...", 1.0),  # no word at all is no text
    ],
)
def test_words_that_were_never_read_are_invalid(
    text: str, rate: float, reference: Reference
) -> None:
    found = reference.features(Passage(np.array([O_]), text))["invalid_word_rate"]
    assert found == pytest.approx(rate)


def ngram() -> KneserNey:
    """Return the n-gram of the fixture, by itself."""
    return KneserNey(2, len(PIECES), begin=S).fit(np.append(d, END) for d in DOCUMENTS)


def test_bits_are_those_of_the_ngram_over_the_bytes_of_the_text(reference: Reference) -> None:
    found = features(reference, O_, GATO, VIU)["bits_per_byte"]
    nats = ngram().nats(np.array([O_, GATO, VIU]))
    assert found == pytest.approx(nats / math.log(2) / len("o gato viu"))


def test_the_order_gain_is_the_mean_over_drawn_orders(reference: Reference) -> None:
    # Two words, the second of two pieces: an order is this one or the other one.
    here, other = np.array([O_, GATO, PLURAL]), np.array([GATO, PLURAL, O_])
    rng = np.random.default_rng(0)
    swapped = sum(int(rng.permutation(2)[0]) for _ in range(PERMUTATIONS))
    assert 0 < swapped < PERMUTATIONS
    lost = (ngram().nats(other) - ngram().nats(here)) / math.log(2)
    found = features(reference, *here.tolist())["order_gain"]
    assert found == pytest.approx(lost * swapped / PERMUTATIONS / 2)
    assert found > 0


def test_one_word_has_no_other_order(reference: Reference) -> None:
    assert features(reference, GATO, PLURAL)["order_gain"] == 0.0


def test_an_empty_sample_has_features(reference: Reference) -> None:
    found = features(reference)
    assert (found["unk_ratio"], found["bits_per_byte"], found["order_gain"]) == (0.0, 0.0, 0.0)
    assert found["invalid_word_rate"] == 1.0


def test_pieces_of_characters_say_nothing() -> None:
    found = features(Reference(Letters(), DOCUMENTS, order=2, seed=0), O_, GATO)
    assert [name for name in FEATURES if found[name] is None] == [
        "fallback_ratio",
        "short_piece_ratio",
    ]


def test_a_reference_needs_documents() -> None:
    with pytest.raises(ArtifactError, match="no document is left for the reference n-gram"):
        Reference(Toy(), [], order=2, seed=0)


def test_an_order_that_does_not_fit_is_a_parameter() -> None:
    with pytest.raises(ParamsError, match=r"guardrails: order 16 x 4 bits .* over 63; lower one"):
        Reference(Toy(), DOCUMENTS, order=16, seed=0)


# --- people and noise -----------------------------------------------------------------------------


def test_a_word_begins_with_a_space() -> None:
    assert opening(["▁a", " ", "\n", "a", "<0x20>", ""]).tolist() == [True] * 3 + [False] * 3


def test_windows_begin_with_a_word_and_do_not_overlap() -> None:
    opens = opening(PIECES)
    document = np.array([PLURAL, O_, AO, AO, AO, GATO, AO, VIU, O_])
    rng = np.random.default_rng(0)
    found = [window.tolist() for window in windows_of(document, opens, (3, 3), rng)]
    # From the first word on; the next word after those three ids; then one id is left.
    assert found == [[O_, AO, AO], [GATO, AO, VIU]]


def test_windows_have_all_lengths_that_were_asked_for() -> None:
    document = np.full(500, O_)
    found = windows_of(document, opening(PIECES), (2, 4), np.random.default_rng(0))
    assert {len(window) for window in found} == {2, 3, 4}
    assert 500 - 4 < sum(map(len, found)) <= 500


def test_uniform_noise_draws_all_that_a_sample_can_hold(reference: Reference) -> None:
    [passage] = uniform_noise(reference, [4000], np.random.default_rng(1))
    ids, counts = np.unique(passage.ids, return_counts=True)
    assert ids.tolist() == [O_, GATO, VIU, PLURAL, AO, BYTE, STOP, NINE]
    assert counts.max() / counts.min() < 1.3
    assert passage.text == Toy().decode(passage.ids)


def test_unigram_noise_draws_as_often_as_the_reference_has_them(reference: Reference) -> None:
    [passage] = unigram_noise(reference, [10_000], np.random.default_rng(1))
    shares = np.bincount(passage.ids, minlength=11) / 10_000
    # Of ten ids: o and gato three times, viu twice, s and the stop once.
    expected = [0, 0, 0, 0.3, 0.3, 0.2, 0.1, 0, 0, 0.1, 0]
    assert shares == pytest.approx(expected, abs=0.02)


def test_shuffled_words_are_the_same_words_cut_again(reference: Reference) -> None:
    passage = Passage(np.array([O_, GATO, VIU, NINE]), "o gato viu 9")
    [found] = shuffled_words(reference, [passage], np.random.default_rng(2))
    assert sorted(found.text.split()) == ["9", "gato", "o", "viu"]
    assert found.text != passage.text
    assert found.ids.tolist() == Toy().encode(found.text)


@pytest.mark.parametrize("noise", [uniform_noise, unigram_noise])
def test_noise_is_a_function_of_its_seed(noise: Any, reference: Reference) -> None:
    first, again, other = (
        noise(reference, [20], np.random.default_rng(seed))[0].text for seed in (1, 1, 2)
    )
    assert first == again != other
