"""Reference lines, with the n-gram probabilities worked out by hand."""

import gzip
import lzma
import math

import numpy as np
import pytest

from cordel.evaluation.references import ReferenceParams, compressed_bits_per_byte
from cordel.kneser_ney import KneserNey


def model(order: int, vocab_size: int, *documents: list[int]) -> KneserNey:
    """Return an n-gram model of some documents, with id 0 as their beginning."""
    return KneserNey(order, vocab_size, begin=0).fit(np.asarray(d) for d in documents)


def probability(ngram: KneserNey, context: list[int], following: int) -> float:
    """Return p(following | context, at the head of a document)."""
    longer, shorter = (ngram.nats(np.asarray(ids)) for ids in ([*context, following], context))
    return math.exp(shorter - longer)


# --- compressors ----------------------------------------------------------------------------------


def test_one_byte_costs_the_frames_of_the_formats() -> None:
    # gzip: 10 bytes of header, 3 of deflate (literal and end), 8 of checksum and length = 21.
    # xz: header 12, block header 12, data 3 + 1 + end 1 padded to 8, checksum 8, index 8,
    # footer 12 = 60.
    assert compressed_bits_per_byte(b"a") == {"gzip": 8 * 21, "xz": 8 * 60}


@pytest.mark.parametrize("name", ["gzip", "xz"])
def test_repetition_costs_next_to_nothing_and_noise_a_byte_a_byte(name: str) -> None:
    noise = np.random.default_rng(0).bytes(20_000)
    assert compressed_bits_per_byte("coração ".encode() * 2000)[name] < 0.1
    assert 8 < compressed_bits_per_byte(noise)[name] < 8.1


def test_prose_is_packed_harder_than_the_default_does(prose: list[str]) -> None:
    text = "\n\n".join(prose).encode()
    found = compressed_bits_per_byte(text)
    # Level 6 is gzip's default; xz -6 is already its best on 171 kB, so against -0.
    assert found["gzip"] < 8 * len(gzip.compress(text, 6, mtime=0)) / len(text)
    assert found["xz"] < 8 * len(lzma.compress(text, preset=0)) / len(text)


# --- Kneser-Ney by hand ---------------------------------------------------------------------------

# Vocabulary 0 (beginning), 1, 2, 3 (end); documents 1 2 3 and 1 3.
SMALL = ([1, 2, 3], [1, 3])


@pytest.mark.parametrize(("following", "expected"), [(0, 0.11), (1, 0.31), (2, 0.27), (3, 0.31)])
def test_order_one_interpolates_counts_with_a_uniform_guess(
    following: int, expected: float
) -> None:
    # Counts 2, 1, 2 of the ids 1, 2, 3. n1 = 1, n2 = 2, Y = 1 / (1 + 2 x 2) = 0.2.
    # D1 = 1 - 2 Y n2 / n1 = 0.2; D2 = 2 - 3 Y n3 / n2 = 2 is not below 2, so half the count: 1.
    # Left over: (1 + 0.2 + 1) / 5 = 0.44, a quarter of it each: 0.11.
    # p(1) = p(3) = (2 - 1) / 5 + 0.11 = 0.31; p(2) = 0.8 / 5 + 0.11 = 0.27; p(0) = 0.11.
    assert probability(model(1, 4, *SMALL), [], following) == pytest.approx(expected)


# Bigrams: 0 1 twice; 1 2, 2 3 and 1 3 once. n1 = 3, n2 = 1, Y = 3/5, D1 = 1 - 2 Y n2 / n1 = 0.6,
# D2 = 2 - 3 Y n3 / n2 = 2 is not below 2, so half the count: 1.
# Below, how many ids each follows: 1, 1 and 2 for 1, 2 and 3. n1 = 2, n2 = 1, Y = 0.5, D1 = 0.5,
# D2 = 1 likewise. Left over: (0.5 + 0.5 + 1) / 4 = 0.5, an eighth each.
# p(0) = 0.125, p(1) = p(2) = 0.5 / 4 + 0.125 = 0.25, p(3) = 1 / 4 + 0.125 = 0.375.
BIGRAMS = [
    ([], 1, 0.625),  # (2 - 1) / 2 + 1/2 x 0.25
    ([], 3, 0.1875),  # 0 + 1/2 x 0.375
    ([1], 2, 0.35),  # (1 - 0.6) / 2 + 1.2 / 2 x 0.25
    ([1], 3, 0.425),  # (1 - 0.6) / 2 + 1.2 / 2 x 0.375
    ([1], 0, 0.075),  # 0 + 0.6 x 0.125
    ([1, 2], 3, 0.625),  # (1 - 0.6) / 1 + 0.6 x 0.375
    ([3], 1, 0.25),  # 3 is never followed: the shorter context decides
]


@pytest.mark.parametrize(("context", "following", "expected"), BIGRAMS)
def test_a_bigram_by_hand(context: list[int], following: int, expected: float) -> None:
    assert probability(model(2, 4, *SMALL), context, following) == pytest.approx(expected)


def test_a_document_costs_the_sum_of_its_ids() -> None:
    nats = model(2, 4, *SMALL).nats(np.asarray([1, 2, 3]))
    assert nats == pytest.approx(-math.log(0.625 * 0.35 * 0.625))


@pytest.mark.parametrize(("following", "count", "discount"), [(1, 1, 0.5), (5, 2, 1.25), (7, 3, 1)])
def test_discounts_come_from_the_counts_of_counts(
    following: int, count: int, discount: float
) -> None:
    # Ids 1 to 4 once, 5 and 6 twice, 7 three times, 8 four times: n1..n4 = 4, 2, 1, 1, 15 in all.
    # Y = 4 / (4 + 2 x 2) = 0.5; D1 = 1 - 2 Y 2/4 = 0.5; D2 = 2 - 3 Y 1/2 = 1.25; D3 = 3 - 4 Y = 1.
    ids = [1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 7, 8, 8, 8, 8]
    left = (4 * 0.5 + 2 * 1.25 + 2 * 1) / 15
    expected = (count - discount) / 15 + left / 9
    assert probability(model(1, 9, ids), [], following) == pytest.approx(expected)


# --- properties -----------------------------------------------------------------------------------


def random_documents(count: int, seed: int = 0) -> list[list[int]]:
    """Return documents of 2 to 30 ids from 1 to 6, skewed to the low ones, ended by 7."""
    rng = np.random.default_rng(seed)
    shares = np.asarray([6, 5, 4, 3, 2, 1]) / 21
    lengths = rng.integers(1, 30, count)
    return [[*rng.choice(np.arange(1, 7), n, p=shares).tolist(), 7] for n in lengths]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    "context",
    [[], [1], [1, 2], [9, 1], [1, 9], [9, 9], [7, 7]],
    ids=lambda c: "-".join(map(str, c)),
)
def test_probabilities_of_the_vocabulary_sum_to_one(order: int, context: list[int]) -> None:
    # 9 is never seen, and nothing follows 7.
    ngram = model(order, 10, *random_documents(8))
    assert sum(probability(ngram, context, w) for w in range(10)) == pytest.approx(1)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_a_repetitive_text_costs_less_than_a_random_one(order: int) -> None:
    repetitive = [[1, 2, 3, 4, 5, 6] * 3 + [7]] * 8
    ngram = model(order, 8, *repetitive, *random_documents(8))
    as_trained, random = np.asarray(repetitive[0]), np.asarray(random_documents(1, seed=9)[0])
    assert ngram.nats(as_trained) / len(as_trained) < 0.5 * ngram.nats(random) / len(random)


def test_a_longer_context_helps_where_it_decides() -> None:
    # After 1 2 comes 3, after 4 2 comes 5: two ids of context tell which.
    text = [1, 2, 3, 4, 2, 5] * 20
    bigram, trigram = model(2, 8, text), model(3, 8, text)
    assert probability(bigram, [1, 2], 3) < 0.55
    assert probability(trigram, [1, 2], 3) > 0.9


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ids_never_seen_cost_finite_nats(order: int) -> None:
    nats = model(order, 10, *random_documents(8)).nats(np.asarray([9, 9, 8, 9]))
    assert 0 < nats < 4 * math.log(10_000)


@pytest.mark.parametrize(
    ("order", "vocab_size", "bits"), [(6, 2048, 11), (6, 2049, 12), (8, 256, 8)]
)
def test_an_order_that_does_not_fit_names_its_numbers(
    order: int, vocab_size: int, bits: int
) -> None:
    # 2^11 = 2048 ids need 11 bits, one more 12; 6 x 11 = 66 and 8 x 8 = 64 are over 63.
    message = rf"order {order} x {bits} bits of .*vocabulary.* {vocab_size} is over 63"
    with pytest.raises(ValueError, match=message):
        KneserNey(order, vocab_size, begin=0)


def test_the_largest_packing_that_fits_counts_correctly() -> None:
    # 7 x 9 = 63 bits: the highest id in every place, and its probability still below one.
    ngram = KneserNey(7, 512, begin=0).fit([np.full(40, 511)])
    assert 0.5 < probability(ngram, [511] * 10, 511) < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"char_order": 0}, "char_order is 0, expected 1 to 8"),
        ({"subword_order": 9}, "subword_order is 9, expected 1 to 8"),
        ({"char_vocab_size": 1}, "char_vocab_size is 1, expected at least 2"),
    ],
)
def test_parameters_out_of_range_are_named(change: dict, message: str) -> None:
    values = {"char_order": 6, "subword_order": 3, "char_vocab_size": 512}
    with pytest.raises(ValueError, match=message):
        ReferenceParams(**(values | change))
