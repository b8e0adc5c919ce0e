"""Noise is forged as the published sampler drew it, and found again under what covers it."""

import io
from pathlib import Path

import numpy as np
import pytest
import sentencepiece as spm

from audit.forgery import (
    Departure,
    Reader,
    common_prefix,
    forge,
    forge_with,
    log10_chance,
    noise,
    written,
)

SEED = 5  # no two bytes of its noise form a character


@pytest.fixture(scope="module")
def model(prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SentencePiece model of 1,500 pieces with bytes, as v4k_bf has them."""
    bytes_of_model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(prose),
        model_writer=bytes_of_model,
        model_type="bpe",
        vocab_size=1500,
        byte_fallback=True,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("forgery") / "tiny.model"
    path.write_bytes(bytes_of_model.getvalue())
    return path


@pytest.fixture(scope="module")
def reader(model: Path) -> Reader:
    return Reader(spm.SentencePieceProcessor(model_file=str(model)))


def changed(reader: Reader, seed: int, changes: dict[int, int], stop: int = 280) -> str:
    """Return noise with other ids at some positions, cut after ``stop`` tokens."""
    ids = noise(len(reader.surfaces), seed)
    for position, other in changes.items():
        ids[position] = other
    return written(reader.processor.decode(ids[:stop]))


def test_noise_inverts_the_uniform_distribution():
    # With ten pieces the cumulative sum is .1, .2, ..., so 0.37 becomes piece 3.
    drawn = np.random.default_rng(7).random(50)
    assert noise(10, 7, 50) == [int(10 * u) for u in drawn]


def test_noise_is_what_the_sampler_drew_one_at_a_time():
    rng, uniform = np.random.default_rng(101), np.full(600, 1 / 600)
    assert noise(600, 101, 20) == [int(rng.choice(600, p=uniform)) for _ in range(20)]


def test_control_characters_are_not_written():
    assert written(" jor\x1b diferentes\x04 ") == "jor diferentes"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("não", "nada", 1), ("não", "não há", 3), ("", "não", 0), ("não", "não", 3)],
)
def test_a_common_prefix_is_counted_in_characters(one: str, other: str, expected: int):
    assert common_prefix(one, other) == expected


def test_a_forgery_is_the_noise_of_its_seed_and_of_no_other(model: Path, reader: Reader):
    assert forge(model, 101) == changed(reader, 101, {})
    assert common_prefix(forge(model, 101), forge(model, 102)) < 5
    assert len(forge(model, 101, tokens=10)) < len(forge(model, 101))


def test_pure_noise_has_no_departures(reader: Reader):
    reading = reader.read(forge_with(reader.processor, SEED), SEED)
    assert reading is not None
    assert (len(reading.ids), reading.departures) == (280, [])


def test_the_tokens_that_are_not_the_generator_s_are_found(reader: Reader):
    other = reader.processor.piece_to_id("▁de")
    drawn = noise(len(reader.surfaces), SEED)
    reading = reader.read(changed(reader, SEED, {40: other, 200: other}), SEED)

    assert reading is not None
    assert [d.position for d in reading.departures] == [40, 200]
    assert reading.departures[0] == Departure(40, drawn[40], other)


def test_a_byte_stands_only_for_what_no_piece_spells(reader: Reader):
    assert reader.processor.id_to_piece(reader.piece_of["."]) == "."
    assert reader.processor.is_byte(reader.piece_of["\ufffd"])


def test_a_text_that_ends_early_drew_an_end_of_document(reader: Reader):
    reading = reader.read(changed(reader, SEED, {}, stop=150), SEED)

    assert reading is not None
    [departure] = reading.departures
    assert (departure.position, departure.published) == (150, reader.end)
    assert len(reading.ids) == 151


@pytest.mark.parametrize("text", ["O Brasil é um país da América do Sul.", ""])
def test_a_text_that_is_not_noise_is_not_read(reader: Reader, text: str):
    assert reader.read(text * 20, SEED) is None


def test_noise_of_another_seed_is_not_read(reader: Reader):
    assert reader.read(forge_with(reader.processor, 4), SEED) is None


def test_noise_under_too_many_other_tokens_is_not_claimed(reader: Reader):
    other = reader.processor.piece_to_id("▁de")
    assert reader.read(changed(reader, SEED, dict.fromkeys(range(0, 280, 3), other)), SEED) is None


def test_a_chance_is_of_all_tokens_together():
    assert log10_chance(1000, 5) == pytest.approx(-15)  # (1/1000)^5
