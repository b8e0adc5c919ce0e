"""The character tokenizer of v1 to v3."""

from pathlib import Path

import pytest

from cordel.runtime.errors import ArtifactError
from cordel.tokenizers.char import CharTokenizer, learn_characters, load_characters


@pytest.fixture
def tokenizer(tmp_path: Path) -> CharTokenizer:
    """Return the vocabulary of two words: newline, space, a, o, v, ~, ã, ó in code point order."""
    learn_characters(["avó vovó", "vovã"], tmp_path)
    return load_characters(tmp_path)


def test_the_vocabulary_is_the_sorted_characters_with_separator_and_tilde(
    tokenizer: CharTokenizer,
) -> None:
    assert tokenizer.characters == "\n aov~ãó"
    assert tokenizer.vocab_size == 8


def test_an_id_is_the_rank_of_its_character(tokenizer: CharTokenizer) -> None:
    assert tokenizer.encode("vã\n") == [4, 6, 0]
    assert tokenizer.pieces([4, 6, 0]) == ["v", "ã", "\n"]


def test_known_text_survives_encoding_and_decoding(tokenizer: CharTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("ó vovó\n\nvã")) == "ó vovó\n\nvã"


def test_an_unknown_character_becomes_a_tilde(tokenizer: CharTokenizer) -> None:
    # x and é are not in the vocabulary; ~ has rank 5.
    assert tokenizer.encode("xaé") == [5, 2, 5]
    assert tokenizer.decode(tokenizer.encode("xaé")) == "~a~"


def test_a_document_ends_with_a_blank_line_and_begins_with_nothing(
    tokenizer: CharTokenizer,
) -> None:
    assert tokenizer.begin == []
    assert tokenizer.undrawable == []
    assert tokenizer.end == tokenizer.context == [0, 0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("avó", 0),
        ("x", 1),
        ("é", 2),  # UTF-8: 2 bytes
        ("a€v🙂", 7),  # 3 + 4
        ("~", 0),  # a tilde is a character of its own
    ],
)
def test_unknown_bytes_are_those_of_characters_outside_the_vocabulary(
    tokenizer: CharTokenizer, text: str, expected: int
) -> None:
    assert tokenizer.unknown_bytes(text) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"characters": "abc"}', "not a character vocabulary"),
        ('{"characters": "aa~"}', "not a character vocabulary"),
        ("{}", "not a character vocabulary"),
        ("[1]", "holds a list, expected an object"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "char.json").write_text(content)
    with pytest.raises(ArtifactError, match=rf"char\.json: {message}"):
        load_characters(tmp_path)
